"""The summary printed after a preparation: how many cases are done, skipped and failed, and why."""

import re
from collections import Counter

from rich.table import Table

from dataset.preparation.runner import Outcome

SHOWN = 12  # most frequent reasons in the table; summary.csv has all


def summary_table(outcome: Outcome) -> Table:
    """Counts by status and reason. Reasons that differ only in numbers are counted together."""
    table = Table(title=None)
    for name in ("status", "cases", "why, or what to look at"):
        table.add_column(name, justify="right" if name == "cases" else "left")
    kept = f"{outcome.kept} of them by an earlier run" if outcome.kept else ""
    table.add_row("done", str(outcome.count("done")), kept)
    for status in ("done", "skipped", "failed"):
        rows = [row for row in outcome.rows if row["status"] == status]
        if status != "done":
            table.add_row(status, str(len(rows)), "")
        reasons, examples = Counter(), {}
        for row in rows:
            for reason in row["flags"] if status == "done" else [str(row["reason"])]:
                if reason:
                    plain = re.sub(r"\b[0-9a-f]{16}\b:? ?|[\d.]+", "#", reason)
                    reasons[plain] += 1
                    examples.setdefault(plain, reason)
        for plain, count in reasons.most_common(SHOWN):
            example = examples[plain]
            table.add_row("", str(count), example if example == plain or count == 1 else f"such as: {example}")
    if outcome.unused:
        table.add_row("unused", str(outcome.unused), "X-rays that belong to no CT that was chosen")
    return table
