"""Generates a CT for each X-ray file: NIfTI in HU, GIF, PNG, DICOM, and its settings."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path, sha256
from dataset.imaging.hu_window import Window
from dataset.io.nifti import write_nifti
from dataset.io.xray import XRAY_ENDINGS
from dataset.io.xray import find_xrays as xrays_in
from dataset.manifest.table import SEPARATOR, parts
from evaluation.generation.dicom_series import write_series
from evaluation.generation.metadata import NOMINAL, describe_input, describe_run, noise_id
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.generation.xray_inputs import GeneratorInput, XrayFiles, read_inputs
from evaluation.intervals.prediction_intervals import PredictionIntervals, error_bars
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures


def find_xrays(path: str | None) -> list[XrayFiles]:
    """The X-ray of each patient: a file, views as `front.png;lateral.png`, or the files of a folder.

    Raises UserError for no path, a missing file, and a folder without an X-ray.
    """
    if not path:
        raise UserError("xray: missing; give an X-ray file or a folder of them, for example xray=chest.png")
    given, views = Path(path), tuple(Path(part) for part in parts(path))
    if given.is_file():
        return [given]
    if given.is_dir():
        return xrays_in(given)
    for view in views or (given,):
        if not view.is_file():
            raise UserError(f"xray={path}: {view}: no such file or folder; give X-ray files or a folder of them")
    return [views]


def generate(
    pipeline,
    xrays: Sequence[XrayFiles],
    output: Path,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    align: str | None = None,
    view: str | None = None,
    intervals: PredictionIntervals | None = None,
    dicom: bool = False,
    allow_any_picture: bool = False,
) -> list[Path]:
    """Writes a CT for each X-ray into `output` and returns the paths of the volumes.

    For every X-ray: `<stem>_synthetic_ct.nii.gz` (the mean of its samples), `.gif`, `.png` and
    `<stem>_settings.json`. With several samples also each of them, `<stem>_sample_<n>_synthetic_ct.nii.gz`, and their
    standard deviation in HU, `<stem>_synthetic_spread.nii.gz`. Where `intervals` apply also their ends,
    `<stem>_synthetic_lower.nii.gz` and `…_upper.nii.gz`. With `dicom` also a series in `<stem>_synthetic_dicom`.

    The noise depends on the seed and the content of the file. Two views are named after the frontal one. Volumes from
    radiographs have a nominal spacing; generators from volumes keep the extent of the input.

    Raises UserError for an X-ray that cannot be read or is no frontal chest X-ray, before anything is written.

    Args:
        checkpoint: file of `pipeline`, for the settings.
        align, view, allow_any_picture: as in `evaluation.generation.xray_inputs.read_inputs`.
    """
    inputs = read_inputs(xrays, pipeline, align, view, allow_any_picture)
    files = [(path,) if isinstance(path, Path) else path for path in xrays]
    hashes = [SEPARATOR.join(map(sha256, views)) for views in files]
    stems = _stems([views[0] for views in files])
    output.mkdir(parents=True, exist_ok=True)
    shared, described = describe_run(pipeline, checkpoint, sampling.samples, sampling.seed), pipeline.describe()
    digest = (shared["checkpoint"] or {}).get("sha256")
    stacked = ModelInputs(
        torch.stack([given.xray for given in inputs])[:, :, None],
        torch.stack([given.pose for given in inputs]),
        torch.tensor([given.extent for given in inputs]),
    )
    written = []
    for part, volumes in sample_volumes(pipeline, stacked, list(map(noise_id, hashes)), sampling):
        for index, samples in zip(part, volumes, strict=True):
            given, target = inputs[index], output / stems[index]
            xray = {"file": SEPARATOR.join(map(str, files[index])), "sha256": hashes[index]}
            settings = {"xray": xray, **shared, **describe_input(given, hashes[index], pipeline)}
            spacing, window, mean = settings["spacing"], pipeline.window, samples.mean(dim=0)
            bars = error_bars(described, sampling.samples, digest, intervals, given.nominal)
            written.append(Path(f"{target}_synthetic_ct.nii.gz"))
            spread = Path(f"{target}_synthetic_spread.nii.gz")
            mark = write_mean_and_spread(written[-1], spread, given, samples, spacing, bars)
            for number, sample in enumerate(samples if len(samples) > 1 else (), start=1):
                write_nifti(f"{target}_sample_{number}_synthetic_ct.nii.gz", sample, spacing, given.centre, mark)
            grey = pictures.display_window(window)
            sheets.save_gif(Path(f"{target}_synthetic_ct.gif"), sheets.volume_frames(mean, spacing, grey))
            sheets.planes_picture(given.picture, mean, spacing, grey).save(f"{target}_synthetic_ct.png")
            if bars["name"] == "interval":
                bars |= _write_interval(target, given, samples, spacing, window, intervals)
            settings["error_bars"] = bars
            if dicom:
                write_series(f"{target}_synthetic_dicom", mean, spacing, given.centre, window)
            with atomic_path(f"{target}_settings.json") as temporary:
                Path(temporary).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return written


def write_mean_and_spread(
    path: Path, spread_path: Path, given: GeneratorInput, samples: Float[Tensor, "s d h w"], spacing, bars: dict
) -> str:
    """Writes the mean and, of several samples, their standard deviation as NIfTI; returns the mark of the mean."""
    preview = f"; {bars['preview']}" if "preview" in bars else ""
    mark = pictures.SYNTHETIC + ("; nominal spacing" if given.nominal else "") + preview
    write_nifti(path, samples.mean(dim=0), spacing, given.centre, mark)
    if len(samples) > 1:
        description = f"{pictures.SYNTHETIC}; spread (1 SD), HU{preview}"
        write_nifti(spread_path, samples.std(dim=0, correction=0), spacing, given.centre, description)
    return mark


def _write_interval(
    target: Path, given: GeneratorInput, samples: Tensor, spacing, window: Window, intervals: PredictionIntervals
) -> dict:
    """Writes both ends as NIfTI; returns the intervals of organ volumes for the settings."""
    ends = intervals.of_voxels(samples, tuple(spacing), window)
    for name, volume in zip(("lower", "upper"), ends, strict=True):
        description = f"{pictures.SYNTHETIC}; {name} {100 * intervals.level:g} %, HU"
        write_nifti(f"{target}_synthetic_{name}.nii.gz", volume, spacing, given.centre, description)
    if not intervals.has_organs(given.nominal):
        return {"organs": None, "organs_reason": NOMINAL if given.nominal else "no organ volume was calibrated"}
    return {"organs": intervals.of_organs(samples, tuple(spacing), window)}


def _stems(xrays: list[Path]) -> list[str]:
    """File names without their ending; with it where two X-rays would write the same files."""
    bare = []
    for path in xrays:
        ending = next((e for e in sorted(XRAY_ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e)), "")
        bare.append(path.name[: len(path.name) - len(ending)])
    return [p.name.replace(".", "_") if bare.count(stem) > 1 else stem for stem, p in zip(bare, xrays, strict=True)]
