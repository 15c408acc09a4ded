"""Estimates with intervals, and Markdown tables, as text."""

from collections.abc import Iterable, Sequence


def estimate_text(
    estimate: dict | None, digits: int, sign: str = "", unit: str = "", missing: str = "–", single: str = ""
) -> str:
    """`mean unit [low, high]`; `missing` without a mean, and `single` in place of an interval that is missing."""
    if estimate is None or estimate["mean"] is None:
        return missing
    mean, *ends = (None if estimate[k] is None else f"{estimate[k]:{sign}.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean}{unit}{single if ends[0] is None else f' [{ends[0]}, {ends[1]}]'}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
