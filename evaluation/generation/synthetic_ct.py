"""The volumes generated from one X-ray, with their spread, geometry, warnings and settings, and their files."""

from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path

import nibabel as nib
import torch
from jaxtyping import Float
from torch import Tensor

from common.files import clear, write_json
from dataset.imaging.hu_window import Window
from dataset.io.nifti import nifti_image, write_nifti
from ddpm.diffusion.sample_spread import sample_spread
from ddpm.diffusion.training_spread import FEWEST_SAMPLES
from evaluation.generation.dicom_series import write_series
from evaluation.generation.metadata import NOMINAL
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.intervals.evidence import EvidenceMaps
from evaluation.intervals.prediction_intervals import PredictionIntervals
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures

SPREAD = f"{pictures.SYNTHETIC}; spread (1 SD), HU"
EVIDENCE = f"{pictures.SYNTHETIC}; evidence, percent: 0 invented, -1 undefined"
CALIBRATED_EVIDENCE = f"{pictures.SYNTHETIC}; calibrated evidence, %: 0 invented, -1 undefined"
UNDEFINED = -1  # percent of evidence in files where training volumes do not differ
NAMES = ("_synthetic_*", "_sample_*_synthetic_ct.nii.gz", "_settings.json")  # after the stem of the X-ray


@dataclass(frozen=True)
class SyntheticCT:
    """Samples of synthetic CT volumes from one X-ray; not for diagnosis.

    Attributes:
        samples: decoded volumes in HU.
        predictive: the samples with the detail that the decoder loses (`ddpm.latent.decoder_residual`), from which
            spread, voxel intervals and evidence are made; the same as `samples` without a measured residual, and where
            there is one sample.
        given: the X-ray as the model takes it.
        spacing: mm `(D, H, W)`; nominal for a radiograph.
        window: HU window of the model.
        settings: what reproduces the volumes, plain JSON.
        stem: first part of the file names.
        intervals: calibrated for this checkpoint; None without calibration.
        numpy: whether `volumes`, `mean`, `spread` and `evidence` are NumPy arrays.
        evidence_maps: of the model, for the evidence map; None without a spread of training volumes.
    """

    samples: Float[Tensor, "n d h w"]
    predictive: Float[Tensor, "n d h w"] = field(repr=False)
    given: GeneratorInput
    spacing: tuple[float, float, float]
    window: Window
    settings: dict
    stem: str = "xray"
    intervals: PredictionIntervals | None = field(default=None, repr=False)
    numpy: bool = False
    evidence_maps: EvidenceMaps | None = field(default=None, repr=False)

    @property
    def volumes(self) -> Float[Tensor, "n d h w"]:
        """All samples in HU."""
        return self._array(self.samples)

    @property
    def mean(self) -> Float[Tensor, "d h w"]:
        """The mean of the samples in HU, the estimate with the smallest expected error."""
        return self._array(self.samples.mean(dim=0))

    @property
    def spread(self) -> Float[Tensor, "d h w"] | None:
        """The standard deviation of a patient's volume given the X-ray, in HU; None for one sample."""
        return self._array(sample_spread(self.predictive, self.antithetic)) if len(self.samples) > 1 else None

    @cached_property
    def evidence(self) -> Float[Tensor, "d h w"] | None:
        """The share of the variance of training volumes that the X-ray explains (`ddpm.diffusion.training_spread`).

        0 to 1, NaN where training volumes do not differ; None for fewer than 4 samples, or a model without their
        spread. Calibrated where a calibration applies (`settings["evidence"]`).
        """
        if self.evidence_maps is None or len(self.predictive) < FEWEST_SAMPLES:
            return None
        return self._array(self.evidence_maps(self.predictive, self.antithetic))

    @property
    def antithetic(self) -> bool:
        """Whether samples 2k and 2k + 1 have opposite noise."""
        return bool(self.settings.get("antithetic"))

    @property
    def warnings(self) -> list[str]:
        """Warnings about the X-ray, one line each."""
        return self.given.warnings

    @property
    def reprojection(self) -> float | None:
        """Mean absolute difference of the DRR of the mean and the X-ray, of a range of 1; None if not measured.

        Not comparable with the metric `reprojection` of an evaluation (`settings["reprojection_note"]`).
        """
        return self.settings["reprojection_error"]

    @property
    def mark(self) -> str:
        """The description in the header of a volume."""
        preview = self.settings["error_bars"].get("preview")
        return "; ".join([pictures.SYNTHETIC, *["nominal spacing"] * self.given.nominal, *filter(None, [preview])])

    def to_nifti(self, sample: int | None = None) -> nib.Nifti1Image:
        """The mean, or a sample, as NIfTI image with its affine."""
        hu = self.samples.mean(dim=0) if sample is None else self.samples[sample]
        return nifti_image(hu, self.spacing, self.given.centre, self.mark)

    def write_mean_and_spread(self, path: Path, spread_path: Path) -> list[Path]:
        """Writes the mean and, of several samples, their spread; returns the paths written."""
        write_nifti(path, self.samples.mean(dim=0), self.spacing, self.given.centre, self.mark)
        if len(self.samples) == 1:
            return [path]
        mark = self.mark.replace("; nominal spacing", "").replace(pictures.SYNTHETIC, SPREAD)
        spread = sample_spread(self.predictive, self.antithetic)
        write_nifti(spread_path, spread, self.spacing, self.given.centre, mark)
        return [path, spread_path]

    def write_evidence(self, path: Path) -> list[Path]:
        """Writes the evidence map in percent, `UNDEFINED` for NaN; returns the path, or nothing without a map."""
        if self.evidence is None:
            return []
        percent = torch.nan_to_num(100.0 * torch.as_tensor(self.evidence), nan=UNDEFINED)
        mark = EVIDENCE if self.evidence_maps.curve is None else CALIBRATED_EVIDENCE
        write_nifti(path, percent, self.spacing, self.given.centre, mark)  # integers
        return [path]

    def save(
        self,
        folder: str | Path,
        overwrite: bool = False,
        dicom: bool = False,
        with_residual: bool = False,
        gif: bool = False,
    ) -> list[Path]:
        """Writes the files of this X-ray and returns the paths of its NIfTI files, that of the mean first.

        `<stem>_synthetic_ct.nii.gz` (the mean), `.png` and `<stem>_settings.json`; of several samples also each, and
        their spread, and of four or more the evidence map in percent; with a calibration the ends of its interval;
        with `dicom` a series in `<stem>_synthetic_dicom`; with `gif` an animation through all slices,
        `<stem>_synthetic_ct.gif`.
        `with_residual` writes the samples with the decoder's residual.

        Raises UserError if files of an earlier run have the same stem; `overwrite` removes them.
        """
        folder, mean = Path(folder).expanduser(), self.samples.mean(dim=0)
        target, place = folder / self.stem, (self.spacing, self.given.centre)
        clear(folder, files_of(self.stem), overwrite)
        endings = ("synthetic_ct", "synthetic_spread")
        paths = self.write_mean_and_spread(*(Path(f"{target}_{ending}.nii.gz") for ending in endings))
        written = self.predictive if with_residual else self.samples
        for number, sample in enumerate(written if len(written) > 1 else (), start=1):
            paths.append(Path(f"{target}_sample_{number}_synthetic_ct.nii.gz"))
            write_nifti(paths[-1], sample, *place, self.mark)
        grey = pictures.display_window(self.window)
        if gif:
            sheets.save_gif(Path(f"{target}_synthetic_ct.gif"), sheets.volume_frames(mean, self.spacing, grey))
        sheet = sheets.planes_picture(self.given.picture, mean, self.spacing, grey, original=self.given.original)
        sheet.save(f"{target}_synthetic_ct.png")
        bars = dict(self.settings["error_bars"])
        if bars["name"] == "interval":
            ends = self.intervals.of_voxels(self.predictive, *self._place)
            for name, end in zip(("lower", "upper"), ends, strict=True):
                paths.append(Path(f"{target}_synthetic_{name}.nii.gz"))
                mark = f"{pictures.SYNTHETIC}; {name} {100 * self.intervals.level:g} %, HU"
                write_nifti(paths[-1], end, *place, mark)
            bars |= self._organs()
        paths += self.write_evidence(Path(f"{target}_synthetic_evidence.nii.gz"))
        if dicom:
            write_series(f"{target}_synthetic_dicom", mean, *place, self.window, self.mark)
        write_json(f"{target}_settings.json", {**self.settings, "error_bars": bars})
        return paths

    @property
    def _place(self) -> tuple:
        return tuple(self.spacing), self.window

    def _array(self, values: Tensor) -> Tensor:
        return values.numpy() if self.numpy else values

    def _organs(self) -> dict:
        """The intervals of organ volumes, or why there are none."""
        if not self.intervals.has_organs(self.given.nominal):
            reason = NOMINAL if self.given.nominal else "no organ volume was calibrated"
            return {"organs": None, "organs_reason": reason}
        return {"organs": self.intervals.of_organs(self.samples, *self._place)}


class SyntheticCTs(list[SyntheticCT]):
    """The results of several X-rays, in their order."""

    @property
    def volumes(self) -> Float[Tensor, "b n d h w"]:
        """HU of all samples."""
        return self[0]._array(torch.stack([one.samples for one in self]))

    @property
    def spread(self) -> Float[Tensor, "b d h w"] | None:
        """Standard deviations of a sample in HU; None for one sample each."""
        spreads = [sample_spread(one.predictive, one.antithetic) for one in self if len(one.samples) > 1]
        return self[0]._array(torch.stack(spreads)) if spreads else None

    @property
    def warnings(self) -> list[list[str]]:
        """Warnings about each X-ray."""
        return [one.warnings for one in self]

    def to_nifti(self) -> list[nib.Nifti1Image]:
        """The means as NIfTI images."""
        return [one.to_nifti() for one in self]

    def save(self, folder: str | Path, **options) -> list[Path]:
        """Writes the files of every X-ray (`SyntheticCT.save`)."""
        return [path for one in self for path in one.save(folder, **options)]


def files_of(stem: str) -> list[str]:
    """Patterns of the files of an X-ray."""
    return [f"{escape(stem)}{name}" for name in NAMES]
