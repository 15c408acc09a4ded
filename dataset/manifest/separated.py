"""The X-rays, or the views, of one case in one text, as `a_pa.png;a_lat.png`."""

import csv
import io
from collections.abc import Iterable

SEPARATOR = ";"


def parts(value: str) -> list[str]:
    """The X-rays, or the views, of one case; a name with a semicolon stands in quotes."""
    rows = list(csv.reader([str(value)], delimiter=SEPARATOR, skipinitialspace=True))
    return [part.strip() for part in rows[0]] if str(value).strip() else []


def join(names: Iterable[str]) -> str:
    """The inverse of `parts`."""
    line = io.StringIO()
    csv.writer(line, delimiter=SEPARATOR, lineterminator="").writerow(names)
    return line.getvalue()
