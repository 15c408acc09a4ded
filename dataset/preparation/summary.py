"""The summary printed after a preparation: how many cases are done, skipped and failed, and why."""

import re
from collections import defaultdict

from rich.table import Table

from dataset.preparation.runner import Outcome

SHOWN = 12  # most frequent reasons in the table; summary.csv has all


def summary_table(outcome: Outcome) -> Table:
    """Counts by status and reason. Reasons that differ only in numbers are counted together."""
    table = Table()
    for name in ("status", "cases", "reasons and remarks"):
        table.add_column(name, justify="right" if name == "cases" else "left")
    for status in ("done", "skipped", "failed"):
        rows = [row for row in outcome.rows if row["status"] == status]
        kept = f"{outcome.kept} of them by an earlier run" if status == "done" and outcome.kept else ""
        table.add_row(status, str(len(rows)), kept)
        groups = defaultdict(list)
        for reason in (reason for row in rows for reason in row.get("flags", [row["reason"]])):
            groups[re.sub(r"\b[0-9a-f]{16}\b:? ?|[\d.]+", "#", reason)].append(reason)
        for plain, reasons in sorted(groups.items(), key=lambda group: -len(group[1]))[:SHOWN]:
            example = reasons[0] if len(reasons) == 1 or reasons[0] == plain else f"such as: {reasons[0]}"
            table.add_row("", str(len(reasons)), example)
    if outcome.unused:
        table.add_row("unused", str(outcome.unused), "X-rays that belong to no chosen CT")
    return table
