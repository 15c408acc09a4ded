"""The table after a preparation has one row for each reason and counts the unused X-rays."""

import io

from rich.console import Console

from dataset.preparation.runner import Outcome
from dataset.preparation.summary import summary_table


def shown(outcome):
    console = Console(width=200, file=io.StringIO())
    console.print(summary_table(outcome))
    return console.file.getvalue()


def test_a_flag_with_a_semicolon_is_one_row():
    flag = "X-ray refused: a lateral view; give a frontal one"
    rows = [{"id": "a", "status": "done", "reason": f"{flag}; dark", "flags": [flag, "dark"]}]
    text = shown(Outcome(rows, 0))
    assert flag in text and "unused" not in text
    assert len([line for line in text.splitlines() if line.startswith("│")]) == 5  # done, two flags, skipped, failed


def test_unused_x_rays_are_counted():
    (line,) = [line for line in shown(Outcome([], 0, unused=7)).splitlines() if "unused" in line]
    assert "7" in line and "belong to no chosen CT" in line
