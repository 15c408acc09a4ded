"""Pre-specified comparisons of classifiers and their tests."""

from itertools import combinations

import numpy as np

from evaluation.statistics.delong import Areas
from evaluation.statistics.roc import LEVEL
from evaluation.statistics.significance import holm

PRIMARY = (
    "primary comparison, stated beforehand: AUC of the classifier of generated volumes minus that of the X-ray "
    "classifier with the highest validation AUC; all other comparisons are Holm-adjusted"
)


def strongest_xray(inputs: dict[str, str], validation: dict[str, float]) -> str | None:
    """The X-ray classifier with the highest validation AUC; the first of equals."""
    candidates = [name for name, kind in inputs.items() if kind == "xray"]
    return max(candidates, key=lambda name: validation[name]) if candidates else None


def interval(drawn: np.ndarray) -> tuple[float | None, float | None]:
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2:
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _compare(found: Areas, drawn: np.ndarray, names: list[str], first: str, second: str) -> dict:
    i, j = names.index(first), names.index(second)
    mean, low, high = found.difference(i, j)
    return {
        "first": first,
        "second": second,
        "difference": mean,
        "low": low,
        "high": high,
        "bootstrap": list(interval(drawn[:, i] - drawn[:, j])),
        "p": found.p_value(i, j),
    }


def _shown(comparison: dict, p: float | None) -> bool:
    if comparison["low"] is None or p is None:
        return False
    return bool(p <= 1 - LEVEL) and not comparison["low"] <= 0.0 <= comparison["high"]


def _pair(names: list[str], inputs: dict[str, str], validation: dict[str, float]) -> tuple[str | None, str | None]:
    generated = next((name for name in names if inputs[name] == "generated"), None)
    return generated, strongest_xray(inputs, validation)


def primary(found: Areas, drawn, names, inputs, validation) -> dict:
    generated, xray = _pair(names, inputs, validation)
    if generated is None or xray is None:
        what = "classifier of generated volumes" if generated is None else "X-ray classifier"
        return {"stated": PRIMARY, "sentence": f"The primary comparison was not made: there is no {what}."}
    made = _compare(found, drawn, names, generated, xray)
    shown = _shown(made, made["p"])
    size = _size(made, made["p"], "p")
    verdict = "no difference shown" if not shown else "higher" if made["difference"] > 0 else "lower"
    sentence = (
        f"AUC on generated volumes minus {xray}, the strongest X-ray classifier on validation: {size}: {verdict}."
    )
    return {"stated": PRIMARY, **made, "shown": shown, "sentence": sentence}


def others(found: Areas, drawn, names, inputs, validation) -> list[dict]:
    chosen = set(_pair(names, inputs, validation))
    made = [_compare(found, drawn, names, a, b) for a, b in combinations(names, 2) if {a, b} != chosen]
    adjusted = holm({f"{row['first']}|{row['second']}": row["p"] for row in made})
    for row in made:
        row["p_holm"] = adjusted[f"{row['first']}|{row['second']}"]
        row["shown"] = _shown(row, row["p_holm"])
        verdict = "no difference shown" if not row["shown"] else "higher" if row["difference"] > 0 else "lower"
        row["sentence"] = (
            f"{row['first']} minus {row['second']}: {_size(row, row['p_holm'], 'adjusted p')}: {verdict}."
        )
    return made


def _size(row: dict, p: float | None, word: str) -> str:
    if row["low"] is None:
        return f"{row['difference']:+.3f}, without an interval, for neither AUC varies"
    shown = "< 0.001" if p < 0.001 else f"{p:.2g}"
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], {word} {shown}"


def non_inferiority(found: Areas, names, inputs, margin: float | None) -> dict:
    """Whether the interval of generated minus CTPA lies above minus the margin; else nothing is claimed."""
    generated = next((name for name in names if inputs[name] == "generated"), None)
    ctpa = next((name for name in names if inputs[name] == "ct"), None)
    if margin is None or generated is None or ctpa is None:
        return {"margin": margin, "shown": None, "sentence": "Non-inferiority to CTPA was not tested."}
    mean, low, high = found.difference(names.index(generated), names.index(ctpa))
    shown = low is not None and bool(low > -margin)
    span = "without an interval" if low is None else f"[{low:+.3f}, {high:+.3f}]"
    claim = (
        f"not worse than CTPA by more than {margin:g}" if shown else f"no non-inferiority to CTPA shown ({margin:g})"
    )
    sentence = f"Generated minus CTPA: {mean:+.3f} {span}: {claim}."
    return {"margin": margin, "difference": mean, "low": low, "high": high, "shown": shown, "sentence": sentence}
