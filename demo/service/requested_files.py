"""Files of a result that are made when a client asks for them first: the DICOM series and the animation.

Both derive from `volume.nii.gz` of the result, which stays as long as the result does.
"""

import json
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor

from common.files import atomic_path
from dataset.imaging.hu_window import Window
from dataset.io.ct import read_volume
from demo.service.result_store import Store
from evaluation.generation.dicom_series import write_zip
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures

RECIPE = "requested.json"  # spacing, centre, window and mark; not served
FRAMES = 48  # of the GIF

_making = Lock()  # one at a time: each takes memory and a core


def keep_recipe(place: Path, spacing, centre, window: Window, mark: str) -> None:
    """Writes into the folder of a result what its requested files need besides the volume.

    Args:
        spacing: mm `(d, h, w)`.
        centre: RAS mm of the centre of the volume.
        mark: label of the volume as synthetic.
    """
    recipe = {"spacing": list(spacing), "centre": list(centre), "window": [window.low, window.high], "mark": mark}
    (place / RECIPE).write_text(json.dumps(recipe), encoding="utf-8")


def find_or_make(store: Store, token: str, name: str) -> Path | None:
    """Returns the path of a result file, made now if it is one of `MAKERS` and missing; None as `Store.find`."""
    if name not in MAKERS:
        return store.find(token, name)
    with _making:
        found, volume = store.find(token, name), store.find(token, "volume.nii.gz")
        if found is not None or volume is None:
            return found
        with store.kept(token):
            _make(volume.parent, name)
    return store.find(token, name)


def _make(place: Path, name: str) -> None:
    recipe = json.loads((place / RECIPE).read_text(encoding="utf-8"))
    hu = torch.from_numpy(read_volume(place / "volume.nii.gz").hu).float()
    spacing, centre = tuple(recipe["spacing"]), tuple(recipe["centre"])
    MAKERS[name](place / name, hu, spacing, centre, Window(*recipe["window"]), recipe["mark"])


def _write_dicom(path: Path, hu: Float[Tensor, "d h w"], spacing, centre, window: Window, mark: str) -> None:
    write_zip(path, hu, spacing, centre, window, mark)


def _write_gif(path: Path, hu: Float[Tensor, "d h w"], spacing, centre, window: Window, mark: str) -> None:
    with atomic_path(path) as temporary:
        sheets.save_gif(temporary, sheets.volume_frames(hu, spacing, pictures.display_window(window), FRAMES))


MAKERS = {"dicom.zip": _write_dicom, "animation.gif": _write_gif}
