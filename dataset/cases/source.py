"""The interface of a source of cases."""

from typing import Protocol

import pandas as pd

from common.errors import UserError
from dataset.cases.case import Case
from dataset.xray.options import XrayOptions


class Source(Protocol):
    """A source of cases. Its constructor does not read the disk.

    Optional: `forward_model()`, how its X-rays came about (`dataset.imaging.forward_model`), as JSON or None;
    `manifest`, the name of the manifest in the cache; `prepare(workers)`, called before cases are built.
    """

    name: str  # of the data set in results
    rows: pd.DataFrame  # the manifest with the split of every case
    xray_options: XrayOptions

    def missing(self) -> list[str]: ...  # files and keys that the user has to add, one phrase each
    def home(self) -> dict: ...  # plain JSON that identifies the cache folder
    def key(self, row) -> str: ...  # hash of all inputs and settings of a case
    def build(self, row) -> Case: ...
    def describe(self) -> dict: ...  # protocol of the data: plain JSON, no path


def positive(key: str, value, count: int, kind: type = int) -> tuple:
    """`count` positive numbers from a config value; UserError with the key for any other value."""
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    if len(values) != count or not all(isinstance(v, (int, float)) and kind(v) > 0 for v in values):
        shown = values if count > 1 else value
        raise UserError(f"{key}={shown}: give {count} positive number{'s' if count > 1 else ''}")
    return tuple(kind(v) for v in values)
