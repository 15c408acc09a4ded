"""What an evidence map (`ddpm.diffusion.training_spread`) rests on, for the settings of a generated volume."""

from jaxtyping import Float
from torch import Tensor

from common.errors import commands_as_installed
from ddpm.diffusion.training_spread import FEWEST_SAMPLES, TrainingSpread
from evaluation.intervals.prediction_intervals import PredictionIntervals

WHAT = (
    "percent of the variance of training volumes that the X-ray explains: 0 invented, 100 determined, -1 where "
    "training volumes do not differ"
)


def training_spread_of(pipeline, intervals: PredictionIntervals | None, digest: str | None) -> TrainingSpread | None:
    """That of the model; of a model without it that of a calibration file of earlier versions of this `digest`."""
    if pipeline.training_spread is not None or intervals is None or digest != intervals.checkpoint["sha256"]:
        return pipeline.training_spread
    return intervals.training_spread


def describe_evidence(
    spread: TrainingSpread | None,
    samples: int,
    checkpoint: str,
    digest: str | None = None,
    intervals: PredictionIntervals | None = None,
    xray: Float[Tensor, "v h w"] | None = None,
    chi2: float | None = None,
) -> dict:
    """`{"name": "map" | "none", …}` as JSON: number and kind of the training cases, or the reason why there is no map.

    `like_calibration` says whether the X-ray, as the model takes it, is like those of the calibration; None: not
    checked. `checkpoint` names the model in the remedy, `chi2` is that of the first prediction for the X-ray.
    """
    if spread is None:
        remedy = commands_as_installed(f"python train/fit_parts.py checkpoint={checkpoint}")
        return {"name": "none", "reason": f"the spread of training volumes was not measured; {remedy} adds it"}
    if samples < FEWEST_SAMPLES:
        return {"name": "none", "reason": f"{samples} of the {FEWEST_SAMPLES} samples that a map needs"}
    like, words = _like_calibration(digest, intervals, xray, chi2)
    count = sum(spread.cases.values())
    return {
        "name": "map",
        "what": WHAT,
        "training_cases": count,
        "kinds": spread.cases,
        "like_calibration": like,
        "words": f"compared with {count} training volumes ({kinds(spread)}); {words}",
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
