"""Evidence maps (`ddpm.diffusion.training_spread`), calibrated where a calibration applies, and what they rest on."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from common.errors import commands_as_installed
from ddpm.diffusion.training_spread import FEWEST_SAMPLES, TrainingSpread
from evaluation.intervals.prediction_intervals import PredictionIntervals, drawn_with
from evaluation.statistics.evidence_curve import EvidenceCurve

WHAT = (
    "percent of the variance of training volumes that the X-ray explains: 0 invented, 100 determined, -1 where "
    "training volumes do not differ"
)


@dataclass(frozen=True)
class EvidenceMaps:
    """Makes the maps of a generator.

    Attributes:
        spread: of the training volumes.
        curve: of a calibration for this checkpoint, sampler and number of samples; None without.
        uncalibrated: why there is no curve.
    """

    spread: TrainingSpread
    curve: EvidenceCurve | None = None
    uncalibrated: str = "no calibration"

    def __call__(self, samples: Float[Tensor, "s d h w"], antithetic: bool) -> Float[Tensor, "d h w"]:
        """The map of the samples of an X-ray (`TrainingSpread.evidence`), through the curve."""
        found = self.spread.evidence(samples, antithetic)
        return found if self.curve is None else self.curve(found)


def evidence_maps(
    pipeline, intervals: PredictionIntervals | None, digest: str | None, samples: int
) -> EvidenceMaps | None:
    """Those of a pipeline with the checkpoint hash `digest`, for so many samples; None without training spread."""
    spread = training_spread_of(pipeline, intervals, digest)
    if spread is None or intervals is None:
        return spread and EvidenceMaps(spread)
    reason = intervals.mismatch(digest or "", drawn_with(pipeline.describe(), samples))
    if reason is None and intervals.evidence_curve is None:
        reason = "the calibration has no curve for this estimate of the evidence; evaluation/calibrate.py measures one"
    return EvidenceMaps(spread, intervals.evidence_curve) if reason is None else EvidenceMaps(spread, None, reason)


def training_spread_of(pipeline, intervals: PredictionIntervals | None, digest: str | None) -> TrainingSpread | None:
    """That of the model; of a model without it that of a calibration file of earlier versions of this `digest`."""
    if pipeline.training_spread is not None or intervals is None or digest != intervals.checkpoint["sha256"]:
        return pipeline.training_spread
    return intervals.training_spread


def describe_evidence(
    maps: EvidenceMaps | None,
    samples: int,
    checkpoint: str,
    digest: str | None = None,
    intervals: PredictionIntervals | None = None,
    xray: Float[Tensor, "v h w"] | None = None,
    chi2: float | None = None,
) -> dict:
    """`{"name": "map" | "none", …}` as JSON: number and kind of the training cases, or the reason why there is no map.

    `calibrated_on` is the number of calibration cases, None for a map as the samples give it. `like_calibration` says
    whether the X-ray, as the model takes it, is like those of the calibration; None: not checked. `checkpoint` names
    the model in the remedy, `chi2` is that of the first prediction for the X-ray.
    """
    if maps is None:
        remedy = commands_as_installed(f"python train/fit_parts.py checkpoint={checkpoint}")
        return {"name": "none", "reason": f"the spread of training volumes was not measured; {remedy} adds it"}
    if samples < FEWEST_SAMPLES:
        return {"name": "none", "reason": f"{samples} of the {FEWEST_SAMPLES} samples that a map needs"}
    like, words = _like_calibration(digest, intervals, xray, chi2)
    spread, curve = maps.spread, maps.curve
    count = sum(spread.cases.values())
    calibrated = f"not calibrated ({maps.uncalibrated})" if curve is None else f"calibrated on {curve.cases} cases"
    return {
        "name": "map",
        "what": WHAT,
        "training_cases": count,
        "kinds": spread.cases,
        "calibrated_on": curve and curve.cases,
        "like_calibration": like,
        "words": f"compared with {count} training volumes ({kinds(spread)}), {calibrated}; {words}",
    }


def kinds(spread: TrainingSpread) -> str:
    """The number of training cases of each kind in words, such as `54 morphs, 6 patients`."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(spread.cases.items()))


def _like_calibration(digest, intervals, xray, chi2) -> tuple[bool | None, str]:
    unchecked = "whether this X-ray is like those of the training was not checked"
    if intervals is None or xray is None:
        return None, f"{unchecked}: no calibration"
    if digest != intervals.checkpoint["sha256"]:
        return None, f"{unchecked}: the calibration is of another checkpoint"
    p, unlike = intervals.unlike_calibration(xray, chi2)
    if p is None:
        return None, f"{unchecked}: the calibration has no test of X-rays"
    if unlike:
        return (
            False,
            f"this X-ray is unlike the calibration's (p {p:.2g}), so the map may be too high",
        )
    return True, f"this X-ray is like the calibration's (p {p:.2g})"
