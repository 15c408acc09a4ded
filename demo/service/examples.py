"""Examples of the page: real films, the DRR of a held-out patient, and phantoms outside the training split.

DRRs are rendered on request; films come from `assets/films` as they are.
"""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from common.files import ROOT, atomic_path
from dataset.imaging.coverage import fill
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.io.ct import read_volume
from dataset.io.nifti import write_nifti
from dataset.phantom.render import draw_for_xrays, render_phantom
from dataset.sources.phantom import FIRST_INDEX

SIZE, EXTENT, XRAY_SIZE = (128, 128, 128), (320.0, 256.0, 352.0), (256, 256)
FILM = "A real film, without a true CT: COVID-19 Image Repository, Hannover Medical School, CC BY 3.0."
PATIENT = (
    "A DRR of the CT of patient LIDC-IDRI-0001 (CC BY 3.0), whom the included generators have not seen in training."
)
PHANTOM = "A DRR of a phantom, that is, of a drawing of a chest, outside the training split."

_drawing = Lock()


@dataclass(frozen=True)
class Example:
    """An example of the page.

    Attributes:
        note: one line: what it is, its source and licence.
        film: file name in `assets/films`; its CT does not exist.
        patient: file name of a CT in `assets/chests`.
        phantom: number in the test split, after the cases of reported figures.
        view: of the X-ray.
    """

    note: str
    film: str | None = None
    patient: str | None = None
    phantom: int | None = None
    view: str = "PA"

    @property
    def has_truth(self) -> bool:
        return self.film is None

    @property
    def align(self) -> str:
        """Alignment of the X-ray: none for DRRs, whose pose is that of the training X-rays; "" as in training."""
        return "none" if self.has_truth else ""


EXAMPLES = {
    "Film: slim, PA": Example(FILM, film="hannover_3b46de94.png"),
    "Film: broad, PA": Example(FILM, film="hannover_b9673e89.png"),
    "Film: bedside, AP": Example(FILM, film="hannover_5acb8ac5.png", view="AP"),
    "Patient: DRR": Example(PATIENT, patient="lidc-idri-0001.nii.gz"),
    "Phantom: tall": Example(PHANTOM, phantom=907),
    "Phantom: average": Example(PHANTOM, phantom=903),
    "Phantom: effusion": Example(PHANTOM, phantom=905),
}


@dataclass(frozen=True)
class Sample:
    """Files of an example: X-ray (PNG), and the true CT (NIfTI) from which it was rendered, None for a film."""

    xray: Path
    truth: Path | None


def draw_sample(name: str, folder: Path) -> Sample:
    """Returns the files of an example; renders DRRs into `folder` if missing. KeyError for an unknown name."""
    example = EXAMPLES[name]
    if example.film is not None:
        return Sample(ROOT / "assets" / "films" / example.film, None)
    if example.patient is not None:
        truth = ROOT / "assets" / "chests" / example.patient
        sample = Sample(folder / f"patient_{example.patient.removesuffix('.nii.gz')}.png", truth)
    else:
        stem = f"phantom_{example.phantom}"
        sample = Sample(folder / f"{stem}.png", folder / f"{stem}.nii.gz")
    with _drawing:
        if not (sample.xray.is_file() and sample.truth.is_file()):
            _save(_render_patient(sample) if example.patient else _render_phantom(example, sample), sample.xray)
    return sample


def _render_patient(sample: Sample) -> Float[Tensor, "h w"]:
    """The DRR as `dataset=chests` renders it, without noise: the last slices are repeated where the scan ends."""
    volume, drr = read_volume(sample.truth), DrrSettings()
    volume.hu = fill(volume.hu)[0]
    return drr.render(volume, drr.poses(volume.extent), XRAY_SIZE)[0]


def _render_phantom(example: Example, sample: Sample) -> Float[Tensor, "h w"]:
    """The DRR of a phantom without contrast; writes the phantom with contrast as the true CT."""
    drawn = {"index": FIRST_INDEX["test"] + example.phantom, "size": SIZE, "extent": EXTENT}
    phantom, shown = render_phantom(**drawn), draw_for_xrays(**drawn)
    write_nifti(sample.truth, phantom.hu, phantom.spacing, description="phantom, a drawing of a chest")
    return render_xray(torch.from_numpy(shown.hu), shown.spacing, DrrSettings().poses(EXTENT), XRAY_SIZE)[0]


def _save(xray: Float[Tensor, "h w"], path: Path) -> None:
    grey = np.rint(np.asarray(xray).clip(0.0, 1.0) * 65535).astype(np.uint16)
    with atomic_path(path) as temporary:
        Image.fromarray(grey).save(temporary, format="PNG")
