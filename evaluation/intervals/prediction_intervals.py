"""The calibration file of a checkpoint, and what generation says by it: an interval, or only a spread.

`evaluation/calibrate.py` writes `<checkpoint>.bounds.json` beside the checkpoint. It names the checkpoint by its hash,
and sampler, steps, guidance and number of samples: to volumes made in any other way it does not apply.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.files import atomic_path
from dataset.imaging.hu_window import Window
from evaluation.intervals.organ_volumes import HeartRuler
from evaluation.intervals.quantities import ORGANS, TISSUES, UNITS, organ_samples, tissue_masks
from evaluation.statistics.split_conformal import order_interval, rank_of, samples_needed

FORMAT = 1
ENDING = ".bounds.json"
DRAWN_AS = (
    "sampler",
    "step_spacing",
    "solver_options",
    "stochastic",
    "steps",
    "guidance_scale",
    "antithetic",
)  # of `XrayToCTPipeline.describe`
LEVEL = 0.9  # of bounds where nobody says otherwise
NO_GUARANTEE = (
    "No guarantee for a real X-ray: the bounds hold for the population that they were calibrated on, and a patient is "
    "no draw from it."
)


@dataclass(frozen=True)
class Bounds:
    """Margins by quantity for one checkpoint, drawn in one way.

    Attributes:
        checkpoint: `file` and `sha256`.
        drawn: `DRAWN_AS` and `samples`.
        level: of every interval.
        share: of a tissue's voxels that an interval speaks of.
        margins: by quantity `{"low", "high", "cases", "unit"}`: how far the ends move outward.
        coverage: by quantity, on test cases: share with its binomial interval, cases, mean width.
        reliability: rows of quantity, level and coverage before and after the margins.
        population: of the calibration cases: data set, version, number, whether the poses of the X-rays were known.
        heart: `HeartRuler.describe()`, or None.
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

    def write(self, path: str | Path) -> Path:
        """Writes the file whole or not at all."""
        with atomic_path(Path(path)) as temporary:
            text = json.dumps({"format": FORMAT, "kind": "bounds", **asdict(self)}, indent=1, allow_nan=False)
            Path(temporary).write_text(text + "\n", encoding="utf-8")
        return Path(path)

    def why_not(self, digest: str, drawn: dict) -> str | None:
        """Why these bounds do not apply to volumes of a checkpoint with this hash, drawn so; None where they do.

        A file that is older than one of `DRAWN_AS` says nothing of it, and is not asked.
        """
        if digest != self.checkpoint["sha256"]:
            return f"the calibration is of another checkpoint ({self.checkpoint['file']})"
        for key, value in self.drawn.items():
            if drawn.get(key) != value:
                return f"calibrated for {key} {value}, drawn with {key} {drawn.get(key)}"
        return None

    def intervals(
        self, samples: Float[Tensor, "s d h w"], spacing: tuple[float, float, float], window: Window
    ) -> tuple[Float[Tensor, "d h w"], Float[Tensor, "d h w"]]:
        """Lower and upper HU of every voxel, inside the window; a tissue without a margin gets the whole window."""
        low, high = order_interval(samples, self.level)
        for name, mask in tissue_masks(samples.mean(dim=0), spacing).items():
            margin = self.margins.get(name)
            low[mask] = window.low if margin is None else low[mask] - margin["low"]
            high[mask] = window.high if margin is None else high[mask] + margin["high"]
        crossed = low > high  # a negative margin may turn a narrow interval over: its middle is all that is left
        middle = (low + high) / 2.0
        low, high = torch.where(crossed, middle, low), torch.where(crossed, middle, high)
        return low.clamp(window.low, window.high), high.clamp(window.low, window.high)

    def organs(
        self, samples: Float[Tensor, "s d h w"], spacing: tuple[float, float, float], window: Window
    ) -> dict[str, dict]:
        """`{organ: {"low", "high", "unit"}}`."""
        ruler = None if self.heart is None else HeartRuler(**{**self.heart, "weights": tuple(self.heart["weights"])})
        found = {}
        for name, drawn in organ_samples(samples, spacing, ruler, window).items():
            if name in self.margins:
                low, high = (float(x) for x in order_interval(drawn, self.level))
                low, high = low - self.margins[name]["low"], high + self.margins[name]["high"]
                low, high = (low, high) if low <= high else ((low + high) / 2.0,) * 2
                found[name] = {"low": round(max(0.0, low), 1), "high": round(high, 1), "unit": UNITS[name]}
        return found

    def gives_organs(self, nominal: bool) -> bool:
        """Whether organ volumes get an interval, in a volume whose size is `nominal` (that of no patient) or true."""
        known = self.population.get("poses_known", True)  # calibrated on X-rays of which the size was known
        return any(name in self.margins for name in ORGANS) and not (nominal and known)

    def words(self, organs: bool = True) -> str:
        """The promise and its limit; `organs`: whether their volumes are given beside the tissues."""
        percent = f"{100 * self.level:g} %"
        where = self.population.get("dataset", "its calibration cases")
        whose, volume = ("tissue and organ", ", and the organ's volume does") if organs else ("tissue", "")
        return (
            f"For each {whose} by itself, not for all at once: in {percent} of cases drawn like those of {where} at "
            f"least {100 * self.share:g} % of the tissue's voxels lie inside{volume}, on average over calibration "
            f"sets. {NO_GUARANTEE}"
        )


def beside(checkpoint: str | Path) -> Path:
    """Where the calibration of a checkpoint lies."""
    checkpoint = Path(checkpoint)
    return checkpoint.with_name(checkpoint.stem + ENDING)


def read_bounds(path: str | Path) -> Bounds:
    """A calibration file.

    Raises:
        UserError: missing, damaged, or of another format.
    """
    remedy = "write one with python evaluation/calibrate.py"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"bounds={path}: cannot be read ({type(error).__name__}); {remedy}") from error
    if not isinstance(found, dict) or found.get("kind") != "bounds" or found.get("format") != FORMAT:
        raise UserError(f"bounds={path}: not a calibration file of format {FORMAT}; {remedy}")
    try:
        bounds = Bounds(**{k: v for k, v in found.items() if k not in ("format", "kind")})
        samples = int(bounds.drawn["samples"])
        rank_of(samples, float(bounds.level))
        whole = all(float(m["low"]) + float(m["high"]) is not None for m in bounds.margins.values())
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"bounds={path}: not a calibration file ({error}); {remedy}") from error
    if not whole or "sha256" not in bounds.checkpoint or not set(bounds.margins) <= set(UNITS):
        raise UserError(f"bounds={path}: not a calibration file (margins or checkpoint); {remedy}")
    return bounds


def find_bounds(path: str | Path | None, checkpoint: str | Path | None) -> Bounds | None:
    """The file named, or the one beside the checkpoint; None where there is none.

    Raises:
        UserError: a file that is named, or lies there, and cannot be used.
    """
    if path is not None:
        return read_bounds(path)
    if checkpoint is None or not beside(checkpoint).is_file():
        return None
    return read_bounds(beside(checkpoint))


def error_bars(
    described: dict, samples: int, digest: str | None, bounds: Bounds | None, nominal: bool = False
) -> dict:
    """What the error bars of volumes are: `{"name": "none" | "spread" | "interval", …}`, plain JSON with the reason.

    Args:
        described: `XrayToCTPipeline.describe()`.
        samples: drawn for each X-ray.
        digest: SHA-256 of the checkpoint.
        bounds: its calibration, if any.
        nominal: the volumes' size is that of no patient, as of every film.
    """
    preview = {"preview": described["preview"]} if described.get("preview") else {}
    if samples < 2:
        return {"name": "none", "reason": "one sample shows no spread", **preview}
    if bounds is None:
        reason = "not calibrated: python evaluation/calibrate.py makes intervals of it"
    elif samples < samples_needed(bounds.level):
        needed = samples_needed(bounds.level)
        reason = f"{samples} samples; an interval of {100 * bounds.level:g} % needs at least {needed}"
    else:
        drawn = {key: described.get(key) for key in DRAWN_AS} | {"samples": samples}
        reason = bounds.why_not(digest or "", drawn)
    if reason is not None:
        what = "standard deviation of the samples, HU"
        return {"name": "spread", "what": what, "reason": reason, **preview}
    return {
        "name": "interval",
        "level": bounds.level,
        "share": bounds.share,
        "tissues": {name: bounds.margins[name] for name in TISSUES if name in bounds.margins},
        "coverage": bounds.coverage,
        "words": bounds.words(bounds.gives_organs(nominal)),
        **preview,
    }
