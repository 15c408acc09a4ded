"""Markdown of all benchmarks: tables, and numbers with their intervals."""

from collections.abc import Iterable, Sequence


def table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows)]


def span(estimate: dict | None, form: str = ".3g") -> str:
    """`mean [low, high]` of an estimate; without brackets where it has no interval, a dash where it has no value."""
    if estimate is None or estimate["mean"] is None:
        return "–"
    mean = f"{estimate['mean']:{form}}"
    return mean if estimate["low"] is None else f"{mean} [{estimate['low']:{form}}, {estimate['high']:{form}}]"
