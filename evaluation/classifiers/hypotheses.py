"""Pre-specified comparisons of classifiers and their tests."""

from itertools import combinations

import numpy as np

from evaluation.scoring.summary import is_shown
from evaluation.statistics.delong import Areas
from evaluation.statistics.roc import LEVEL
from evaluation.statistics.significance import holm
from evaluation.visualization.text import estimate_text

PRIMARY = (
    "primary comparison, specified in advance: AUC of the classifier of generated volumes minus that of the X-ray "
    "classifier with the highest validation AUC; all other comparisons are Holm-adjusted"
)


def interval(drawn: np.ndarray) -> tuple[float | None, float | None]:
    """Percentile interval of the finite draws."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2:
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def primary(found: Areas, drawn: np.ndarray, inputs: dict[str, str], validation: dict[str, float]) -> dict:
    """The primary comparison; without one of its classifiers only a sentence."""
    generated, xray = _pair(inputs, validation)
    if generated is None or xray is None:
        what = "classifier of generated volumes" if generated is None else "X-ray classifier"
        return {"stated": PRIMARY, "sentence": f"The primary comparison was not made: there is no {what}."}
    made = _compare(found, drawn, inputs, generated, xray)
    outcome = _outcome(made, made["p"], "p")
    sentence = f"AUC on generated volumes minus {xray}, the strongest X-ray classifier on validation: {outcome}."
    return {"stated": PRIMARY, **made, "shown": is_shown(made, made["p"]), "sentence": sentence}


def others(found: Areas, drawn: np.ndarray, inputs: dict[str, str], validation: dict[str, float]) -> list[dict]:
    """All other comparisons of two classifiers, Holm-adjusted."""
    chosen = set(_pair(inputs, validation))
    made = [_compare(found, drawn, inputs, *pair) for pair in combinations(inputs, 2) if set(pair) != chosen]
    adjusted = holm({f"{row['first']}|{row['second']}": row["p"] for row in made})
    for row in made:
        p = row["p_holm"] = adjusted[f"{row['first']}|{row['second']}"]
        row["shown"] = is_shown(row, p)
        row["sentence"] = f"{row['first']} minus {row['second']}: {_outcome(row, p, 'adjusted p')}."
    return made


def non_inferiority(found: Areas, inputs: dict[str, str], margin: float | None) -> dict:
    """Whether the interval of generated minus CTPA lies above minus the margin; else nothing is claimed."""
    kinds = list(inputs.values())
    if margin is None or not {"generated", "ct"} <= set(kinds):
        return {"margin": margin, "shown": None, "sentence": "Non-inferiority to CTPA was not tested."}
    mean, low, high, _ = found.difference(kinds.index("generated"), kinds.index("ct"))
    shown = low is not None and bool(low > -margin)
    span = "without an interval" if low is None else f"[{low:+.3f}, {high:+.3f}]"
    claim = (
        f"not worse than CTPA by more than {margin:g}" if shown else f"no non-inferiority to CTPA shown ({margin:g})"
    )
    sentence = f"Generated minus CTPA: {mean:+.3f} {span}: {claim}."
    return {"margin": margin, "difference": mean, "low": low, "high": high, "shown": shown, "sentence": sentence}


def _pair(inputs: dict[str, str], validation: dict[str, float]) -> tuple[str | None, str | None]:
    """The classifier of generated volumes, and the X-ray classifier with the highest validation AUC."""
    generated = next((name for name, kind in inputs.items() if kind == "generated"), None)
    return generated, max((n for n, kind in inputs.items() if kind == "xray"), key=validation.get, default=None)


def _compare(found: Areas, drawn: np.ndarray, inputs: dict[str, str], first: str, second: str) -> dict:
    i, j = list(inputs).index(first), list(inputs).index(second)
    mean, low, high, p = found.difference(i, j)
    ends = {"low": low, "high": high, "bootstrap": list(interval(drawn[:, i] - drawn[:, j]))}
    return {"first": first, "second": second, "difference": mean, **ends, "p": p}


def _outcome(row: dict, p: float | None, word: str) -> str:
    size = estimate_text(
        row | {"mean": row["difference"]}, 3, "+", single=", without an interval, for neither AUC varies"
    )
    if row["low"] is not None:
        size += f", {word} {'< 0.001' if p < 0.001 else f'{p:.2g}'}"
    shown = is_shown(row, p)
    return f"{size}: {'no difference shown' if not shown else 'higher' if row['difference'] > 0 else 'lower'}"
