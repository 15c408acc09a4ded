"""From X-ray files to CT files: NIfTI with HU and affine, GIF, PNG, DICOM, and the settings that make them again."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path, sha256
from dataset.io.nifti import write_nifti
from dataset.io.xray import XRAY_ENDINGS
from dataset.io.xray import find_xrays as xrays_in
from dataset.manifest.table import SEPARATOR, parts
from evaluation.generation.dicom_series import write_series
from evaluation.generation.metadata import NOMINAL, describe_input, describe_run, noise_id
from evaluation.generation.sample import sample_volumes
from evaluation.generation.xray_inputs import Films, Shown, read_inputs
from evaluation.intervals.prediction_intervals import Bounds, error_bars
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures

log = logging.getLogger(__name__)


def find_xrays(path: str | None) -> list[Films]:
    """The X-ray of each patient: the file itself, its views as `front.png;lateral.png`, or the files of a folder.

    Raises:
        UserError: nothing was given, nothing is there, or the folder holds no X-ray.
    """
    if not path:
        raise UserError("xray: missing; give an X-ray file or a folder of them, for example xray=chest.png")
    given = Path(path)
    if given.is_file():
        return [given]
    films = tuple(Path(part) for part in parts(path))
    if len(films) > 1:
        for film in films:
            if not film.is_file():
                raise UserError(f"xray={path}: {film}: no such file; give each view as a file")
        return [films]
    if not given.is_dir():
        raise UserError(f"xray={path}: no such file or folder; give an X-ray file or a folder of them")
    return xrays_in(given)


def generate(
    pipeline,
    xrays: Sequence[Films],
    output: Path,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 4,
    checkpoint: Path | None = None,
    align: str | None = None,
    view: str | None = None,
    bounds: Bounds | None = None,
    dicom: bool = False,
) -> list[Path]:
    """Writes for every X-ray `<stem>_synthetic_ct.nii.gz`, `.gif`, `.png` and `<stem>_settings.json` into `output`.

    With several samples the first file is their mean; `<stem>_sample_<n>_synthetic_ct.nii.gz` are the samples and
    `<stem>_synthetic_spread.nii.gz` is their standard deviation in HU. Where the checkpoint's calibration applies
    (`evaluation.intervals.prediction_intervals`), `<stem>_synthetic_lower.nii.gz` and `…_upper.nii.gz` are the ends
    of an interval; the settings say under `error_bars` which of the two it is, and why. With `dicom` the first file
    is a series in the folder `<stem>_synthetic_dicom` too. The noise depends on the seed and on what the X-ray's file
    holds, of two views
    the frontal one: the same file gives the same volumes under any name and in any company. Two views are named after
    the frontal one, and the settings name both with `;` between them. Gives back the paths of the volumes.
    `align` and `view` are those of `evaluation.generation.xray_inputs.read_inputs`. A film does not tell how large
    its patient is: the spacing of its volume is nominal, which settings and NIfTI header say. A generator that was
    trained on volumes takes volumes, and gives back their own extent.

    Raises:
        UserError: an X-ray that cannot be read; nothing has been generated then.
    """
    inputs = read_inputs(
        xrays, pipeline.protocol, pipeline.extent, align, view, pipeline.prior, pipeline.pose_regressor
    )
    images = torch.stack([shown.xray for shown in inputs])
    films = [(path,) if isinstance(path, Path) else path for path in xrays]
    hashes = [SEPARATOR.join(sha256(path) for path in views) for views in films]
    names = [SEPARATOR.join(map(str, views)) for views in films]
    stems = _stems([views[0] for views in films])
    poses, extents = torch.stack([shown.pose for shown in inputs]), torch.tensor([shown.extent for shown in inputs])
    output.mkdir(parents=True, exist_ok=True)
    digest = None if checkpoint is None else sha256(checkpoint)
    described = pipeline.describe()
    written = []
    shared = describe_run(pipeline, checkpoint, samples, seed)
    ids = [noise_id(digest) for digest in hashes]
    views = images[:, :, None]
    for part, volumes in sample_volumes(pipeline, views, poses, ids, samples, batch_size, seed, extents):
        for index, drawn in zip(part, volumes, strict=True):
            stem, shown = stems[index], inputs[index]
            settings = {"xray": {"file": names[index], "sha256": hashes[index]}, **shared}
            settings |= describe_input(shown, hashes[index], pipeline)
            spacing = settings["spacing"]
            bars = error_bars(described, samples, digest, bounds, shown.nominal)
            written.append(_write(output, stem, shown, drawn, spacing, pipeline.window, bars))
            settings["error_bars"] = bars
            if bars["name"] == "interval":
                settings["error_bars"] = bars | _write_interval(output, stem, shown, drawn, spacing, pipeline, bounds)
            if dicom:
                folder = output / f"{stem}_synthetic_dicom"
                write_series(folder, drawn.mean(dim=0), spacing, shown.centre, pipeline.window)
            with atomic_path(output / f"{stem}_settings.json") as temporary:
                Path(temporary).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return written


def _write(
    output: Path, stem: str, shown: Shown, drawn: Float[Tensor, "s d h w"], spacing, window, bars: dict
) -> Path:
    mean, grey, centre = drawn.mean(dim=0), pictures.display_window(window), shown.centre
    preview = f"; {bars['preview']}" if "preview" in bars else ""
    mark = pictures.SYNTHETIC + ("; nominal spacing" if shown.nominal else "") + preview
    path = output / f"{stem}_synthetic_ct.nii.gz"
    write_nifti(path, mean, spacing, centre, mark)
    if len(drawn) > 1:
        for number, sample in enumerate(drawn, start=1):
            write_nifti(output / f"{stem}_sample_{number}_synthetic_ct.nii.gz", sample, spacing, centre, mark)
        spread = drawn.std(dim=0, correction=0)
        description = f"{pictures.SYNTHETIC}; spread (1 SD), HU{preview}"
        write_nifti(output / f"{stem}_synthetic_spread.nii.gz", spread, spacing, centre, description)
    sheets.save_gif(output / f"{stem}_synthetic_ct.gif", sheets.volume_frames(mean, spacing, grey))
    sheets.planes_picture(shown.picture, mean, spacing, grey).save(output / f"{stem}_synthetic_ct.png")
    return path


def _write_interval(
    output: Path, stem: str, shown: Shown, drawn: Float[Tensor, "s d h w"], spacing, pipeline, bounds: Bounds
) -> dict:
    """Both ends as NIfTI; what the settings say of organ volumes."""
    ends = bounds.intervals(drawn, tuple(spacing), pipeline.window)
    for name, volume in zip(("lower", "upper"), ends, strict=True):
        description = f"{pictures.SYNTHETIC}; {name} {100 * bounds.level:g} %, HU"
        write_nifti(output / f"{stem}_synthetic_{name}.nii.gz", volume, spacing, shown.centre, description)
    if not bounds.gives_organs(shown.nominal):
        return {"organs": None, "organs_reason": NOMINAL if shown.nominal else "no organ volume was calibrated"}
    return {"organs": bounds.organs(drawn, tuple(spacing), pipeline.window)}


def _stems(xrays: list[Path]) -> list[str]:
    """File names without their ending; with it where two X-rays would write the same files."""
    bare = []
    for path in xrays:
        ending = next((e for e in sorted(XRAY_ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e)), "")
        bare.append(path.name[: len(path.name) - len(ending)])
    return [p.name.replace(".", "_") if bare.count(stem) > 1 else stem for stem, p in zip(bare, xrays, strict=True)]
