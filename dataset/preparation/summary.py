"""The table at the end of a preparation: how many cases are done, skipped and failed, and why."""

import re
from collections import Counter

from rich.table import Table

from dataset.preparation.runner import Outcome

SHOWN = 12  # reasons; all of them stand in summary.csv


def summary_table(outcome: Outcome) -> Table:
    """Counts by status and reason; numbers within reasons do not tell two apart."""
    table = Table(title=None)
    for name in ("status", "cases", "why, or what to look at"):
        table.add_column(name, justify="right" if name == "cases" else "left")
    kept = f"{outcome.kept} of them by an earlier run" if outcome.kept else ""
    table.add_row("done", str(outcome.count("done")), kept)
    for status in ("done", "skipped", "failed"):
        rows = [row for row in outcome.rows if row["status"] == status]
        if status != "done":
            table.add_row(status, str(len(rows)), "")
        reasons = Counter()
        examples = {}
        for row in rows:
            for part in row["flags"] if status == "done" else [str(row["reason"])]:  # a reason may hold "; " itself
                plain = re.sub(r"\b[0-9a-f]{16}\b:? ?|[\d.]+", "#", part)
                reasons[plain] += bool(part)
                examples.setdefault(plain, part)
        for plain, count in [pair for pair in reasons.most_common(SHOWN) if pair[1]]:
            table.add_row(
                "",
                str(count),
                examples[plain] if examples[plain] == plain or count == 1 else f"such as: {examples[plain]}",
            )
    if outcome.unused:
        table.add_row("unused", str(outcome.unused), "X-rays that belong to no CT that was chosen")
    return table
