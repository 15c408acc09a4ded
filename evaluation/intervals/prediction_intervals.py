"""Calibrated prediction intervals of a checkpoint and their file.

`evaluation/calibrate.py` writes `<checkpoint>.bounds.json` beside the checkpoint. It applies to volumes with the same
checkpoint (SHA-256), sampler, steps, guidance and number of samples.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError, commands_as_installed
from common.files import atomic_path
from dataset.imaging.hu_window import Window
from ddpm.diffusion.training_spread import ESTIMATE, TrainingSpread
from evaluation.intervals.input_shift import LEVEL as SHIFT_LEVEL
from evaluation.intervals.input_shift import InputShift
from evaluation.intervals.organ_volumes import HeartVolumeRegressor
from evaluation.intervals.quantities import ORGANS, TISSUES, UNITS, organ_samples, tissue_masks, title
from evaluation.statistics.evidence_curve import EvidenceCurve
from evaluation.statistics.split_conformal import order_interval, rank_of, samples_needed

FORMAT = 1
SAMPLED_WITH = (  # keys of `XrayToCTPipeline.describe` in which calibration and generation must agree
    "sampler",
    "step_spacing",
    "solver_options",
    "stochastic",
    "steps",
    "guidance_scale",
    "antithetic",
    "decoder_residual",
    "consistency",
)
LEVEL = 0.9  # default share of cases that an interval covers
SPREAD = "standard deviation of the samples, HU"
NO_GUARANTEE = (
    "No guarantee for a real X-ray: the intervals hold for the population of the calibration cases, to which a "
    "patient does not belong."
)


@dataclass(frozen=True)
class PredictionIntervals:
    """Conformal margins by quantity for one checkpoint and one sampling.

    Attributes:
        checkpoint: `file` and `sha256`.
        drawn: `SAMPLED_WITH` and `samples`.
        level: share of cases that each interval covers.
        share: of the voxels of a tissue that lie inside in a covered case.
        margins: by quantity `{"low", "high", "cases", "unit"}`: outward shift of both ends.
        coverage: by quantity, on test cases: share with its binomial interval, cases, mean width.
        reliability: rows of quantity, level and coverage before and after the margins.
        population: data set, version and number of the calibration cases, whether their poses were known, and
            `regions`, precision and recall of tissues against labels (empty without labels); `withheld`, the share of
            test X-rays that get no interval by the test of input shift, with its binomial interval;
            `evidence`, the attributes of the `EvidenceCurve` and the reliability of maps of test cases without and
            with it, or None without a spread of training volumes; the last three are absent in older files.
        heart: attributes of the `HeartVolumeRegressor`, or None.
        shift: attributes of the `InputShift`, which decides whether an X-ray gets intervals; None in older files.
    """

    checkpoint: dict
    drawn: dict
    level: float
    share: float
    margins: dict[str, dict]
    coverage: dict[str, dict] = field(default_factory=dict)
    reliability: list[dict] = field(default_factory=list)
    population: dict = field(default_factory=dict)
    heart: dict | None = None
    shift: dict | None = None

    def write(self, path: str | Path) -> Path:
        """Writes the file atomically and returns its path."""
        with atomic_path(Path(path)) as temporary:
            text = json.dumps({"format": FORMAT, "kind": "bounds", **asdict(self)}, indent=1, allow_nan=False)
            Path(temporary).write_text(text + "\n", encoding="utf-8")
        return Path(path)

    def mismatch(self, digest: str, drawn: dict) -> str | None:
        """Why the intervals do not apply to this checkpoint hash and sampling, or None.

        Keys of `SAMPLED_WITH` that an older file does not contain are not compared.
        """
        if digest != self.checkpoint["sha256"]:
            return f"the calibration is of another checkpoint ({self.checkpoint['file']})"
        if drawn.get("ensemble") != self.drawn.get("ensemble"):
            return "calibrated for one training, drawn with several"
        for key, value in self.drawn.items():
            if drawn.get(key) != value:
                return f"calibrated for {key} {value}, drawn with {key} {drawn.get(key)}"
        return None

    def unlike_calibration(
        self, xray: Float[Tensor, "v h w"], chi2: float | None = None
    ) -> tuple[float | None, str | None]:
        """The p value of the test of input shift, None without one, and why no interval is claimed, or None.

        `chi2` is that of the first prediction for the X-ray, None where it is not known.
        """
        if self.shift is None:
            return None, None
        p = InputShift(**self.shift).p_value(xray, chi2)
        words = f"this X-ray is unlike the calibration's (p {p:.2g}), so no interval is claimed for it"
        return round(p, 4), words if p < SHIFT_LEVEL else None

    @property
    def training_spread(self) -> TrainingSpread | None:
        """That of a file of earlier versions, when it was a part of calibrations; ValueError for a damaged one."""
        found = self.population.get("training_spread")
        return TrainingSpread.from_numbers(**found) if found else None

    @property
    def evidence_curve(self) -> EvidenceCurve | None:
        """The curve that calibrates evidence maps, None for one of another estimate; ValueError for a damaged one."""
        found = self.population.get("evidence")
        return EvidenceCurve(**found["curve"]) if found and found.get("estimate") == ESTIMATE else None

    def of_voxels(
        self, samples: Float[Tensor, "s d h w"], spacing: tuple[float, float, float], window: Window
    ) -> tuple[Float[Tensor, "d h w"], Float[Tensor, "d h w"]]:
        """Lower and upper HU of each voxel, clipped to the window; the whole window for a tissue without margin."""
        low, high = order_interval(samples, self.level)
        margins = self.margins
        if "soft" in margins and "air" not in margins:  # a file of an earlier version in a window without air
            margins = {"undivided": margins["soft"], **margins}
        for name, mask in tissue_masks(samples.mean(dim=0), spacing, window).items():
            if name in margins:
                low[mask], high[mask] = _widened(low[mask], high[mask], margins[name])
            else:
                low[mask], high[mask] = window.low, window.high
        return low.clamp(window.low, window.high), high.clamp(window.low, window.high)

    def of_organs(
        self, samples: Float[Tensor, "s d h w"], spacing: tuple[float, float, float], window: Window
    ) -> dict[str, dict]:
        """`{organ: {"low", "high", "unit", "title"}}` in ml, for each organ with a margin."""
        heart, found = self.heart and HeartVolumeRegressor(**self.heart), {}
        accuracy = self.population.get("regions")
        for name, drawn in organ_samples(samples, spacing, heart, window).items():
            if name in self.margins:
                low, high = map(float, _widened(*order_interval(drawn, self.level), self.margins[name]))
                found[name] = {"low": round(max(0.0, low), 1), "high": round(high, 1), "unit": UNITS[name]}
                found[name]["title"] = title(name, accuracy)
        return found

    def has_organs(self, nominal: bool) -> bool:
        """Whether organ volumes get an interval in a volume whose size is `nominal` (a typical patient's) or true."""
        true_size = self.population.get("poses_known", True)  # of the generated calibration cases
        return any(name in self.margins for name in ORGANS) and not (nominal and true_size)

    def words(self, organs: bool = True) -> str:
        """The coverage guarantee and its limit in words, with or without organ volumes."""
        percent = f"{100 * self.level:g} %"
        where = self.population.get("dataset", "its calibration cases")
        whose, volume = ("tissue and organ", ", and the organ's volume does") if organs else ("tissue", "")
        return (
            f"For each {whose} by itself, not for all at once: in {percent} of cases from the population of {where} "
            f"at least {100 * self.share:g} % of the tissue's voxels lie inside{volume}, on average over calibration "
            f"sets. {NO_GUARANTEE}"
        )


def _widened(low: Tensor, high: Tensor, margin: dict) -> tuple[Tensor, Tensor]:
    """Both ends moved by the margin; if a negative margin lets them cross, both at the middle."""
    low, high = low - margin["low"], high + margin["high"]
    middle = (low + high) / 2.0
    return torch.where(low > high, middle, low), torch.where(low > high, middle, high)


def calibration_path(checkpoint: str | Path) -> Path:
    """Path of the calibration file of a checkpoint."""
    return Path(checkpoint).with_suffix(".bounds.json")


def read_intervals(path: str | Path) -> PredictionIntervals:
    """Reads a calibration file; UserError if it is missing, damaged or has another format."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if (found.pop("kind"), found.pop("format")) != ("bounds", FORMAT):
            raise ValueError("another format")
        intervals = PredictionIntervals(**found)
        rank_of(int(intervals.drawn["samples"]), float(intervals.level))
        if intervals.shift is not None:
            InputShift(**intervals.shift)
        _ = intervals.training_spread, intervals.evidence_curve  # raise if damaged
        ends = [float(margin[end]) for margin in intervals.margins.values() for end in ("low", "high")]
        if "sha256" not in intervals.checkpoint or not set(intervals.margins) <= set(UNITS) or np.isnan(ends).any():
            raise ValueError("margins or checkpoint")
    except (OSError, AttributeError, TypeError, KeyError, ValueError) as error:
        remedy = "write one with python evaluation/calibrate.py"
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"bounds={path}: not a calibration file of format {FORMAT} ({reason}); {remedy}") from error
    return intervals


def find_intervals(path: str | Path | None, checkpoint: str | Path | None) -> PredictionIntervals | None:
    """The calibration file `path`, or the one beside the checkpoint, or None; UserError as `read_intervals`."""
    if path is None and not calibration_path(checkpoint).is_file():
        return None
    return read_intervals(path or calibration_path(checkpoint))


def drawn_with(described: dict, samples: int) -> dict:
    """What `PredictionIntervals.mismatch` compares, from `XrayToCTPipeline.describe()` and samples per X-ray."""
    return {key: described.get(key) for key in (*SAMPLED_WITH, "ensemble")} | {"samples": samples}


def error_bars(
    described: dict,
    samples: int,
    digest: str | None,
    intervals: PredictionIntervals | None,
    nominal: bool = False,
    xray: Float[Tensor, "v h w"] | None = None,
    chi2: float | None = None,
) -> dict:
    """The kind of error bars of volumes as JSON: `{"name": "none" | "spread" | "interval", …}` with the reason.

    `described` is `XrayToCTPipeline.describe()`, `samples` counts per X-ray, `digest` is the hash of the checkpoint,
    `nominal` says that the volumes have the size of a typical patient, as from every radiograph, and `xray` is the
    X-ray as the model takes it, `chi2` that of its first prediction: one unlike the calibration's gets a spread.
    """
    preview, p = {"preview": described["preview"]} if described.get("preview") else {}, None
    if samples < 2:
        return {"name": "none", "reason": "one sample shows no spread", **preview}
    if intervals is None:
        reason = commands_as_installed("not calibrated: python evaluation/calibrate.py computes intervals")
    elif samples < samples_needed(intervals.level):
        needed = samples_needed(intervals.level)
        reason = f"{samples} samples; an interval of {100 * intervals.level:g} % needs at least {needed}"
    else:
        reason = intervals.mismatch(digest or "", drawn_with(described, samples))
        if reason is None and xray is not None:
            p, reason = intervals.unlike_calibration(xray, chi2)
    if reason is not None:
        tested = {} if p is None else {"input_shift_p": p}
        return {"name": "spread", "what": SPREAD, "reason": reason, **tested, **preview}
    return {
        "name": "interval",
        "level": intervals.level,
        "share": intervals.share,
        "tissues": {
            name: intervals.margins[name] | {"title": title(name, intervals.population.get("regions"))}
            for name in TISSUES
            if name in intervals.margins
        },
        "coverage": intervals.coverage,
        "input_shift_p": p,
        "words": intervals.words(intervals.has_organs(nominal)),
        **preview,
    }


def input_shift_decisions(
    described: dict,
    samples: int,
    digest: str | None,
    intervals: PredictionIntervals | None,
    xrays: dict[str, Float[Tensor, "v h w"]],
    chi2: Sequence[float | None],
) -> dict | None:
    """The test of input shift on X-rays by id, as JSON; None without a calibration that holds one.

    `p` by id and the ids `withheld`, which get no interval below `level`; both empty for a calibration of another
    checkpoint. `chi2` counts the X-rays tested with it, None if the test has none; `reason` says why no volume has an
    interval, whatever its X-ray, None if the calibration applies. Arguments as of `error_bars`.
    """
    if intervals is None or intervals.shift is None:
        return None
    reason = error_bars(described, samples, digest, intervals).get("reason")
    same, compared = digest == intervals.checkpoint["sha256"], bool(intervals.shift.get("chi2"))
    pairs = zip(xrays.items(), chi2, strict=True)
    found = {name: intervals.unlike_calibration(xray, own) for (name, xray), own in pairs} if same else {}
    return {
        "level": SHIFT_LEVEL,
        "p": {name: p for name, (p, _) in found.items()},
        "withheld": [name for name, (_, unlike) in found.items() if unlike],
        "chi2": sum(own is not None for own in chi2) if compared else None,
        "reason": reason,
    }
