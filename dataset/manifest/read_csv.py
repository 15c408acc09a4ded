"""Tables as spreadsheets and other programs save them: any separator and encoding, as text."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from common.errors import UserError

STATED = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # first line in which Excel names the separator
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by the first bytes


def read_csv(file: str | Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A table with comma, semicolon, tab or bar, as text without spaces around it; with `columns` these alone.

    Rows without any value are left out; the index is the row of the file, from 0. Text is UTF-8, UTF-16 with its mark,
    or, as Excel saves it, Windows-1252. Raises UserError for a missing file or column, and a file that is no table.
    """
    columns = list(dict.fromkeys(columns))
    try:
        encoding = _encoding(file)
        with open(file, encoding=encoding) as opened:
            first = opened.readline()
            named = STATED.fullmatch(first.rstrip("\r\n"))
            separator = named[1] if named else max(",;\t|", key=first.count)
        options = {"sep": separator, "encoding": encoding, "skipinitialspace": True, "skiprows": 1 if named else 0}
        head = pd.read_csv(file, nrows=1, header=None, dtype=str, keep_default_na=False, **options)
        names = [str(name).strip() for name in head.iloc[0]]  # as in the file: pandas renames the second of two equal
        if twice := [name for name in columns or names if name and names.count(name) > 1]:
            raise UserError(f"{file}: two columns are called {twice[0]!r}; rename or remove one")
        if absent := [name for name in columns if name not in names]:
            raise UserError(f"{file}: no column {', '.join(absent)}; the table has {', '.join(names)}")
        picked = [names.index(name) for name in columns] if columns else None
        rows = pd.read_csv(
            file, dtype=str, keep_default_na=False, usecols=picked, skip_blank_lines=False, index_col=False, **options
        )
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; give a CSV table") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, OSError) as error:
        raise UserError(f"{file}: not a readable CSV table ({type(error).__name__}); save it as CSV, UTF-8") from error
    rows = rows.fillna("").rename(columns=str.strip).apply(lambda column: column.str.strip())
    return rows[(rows != "").any(axis=1)]


def _encoding(file: str | Path) -> str:
    content = Path(file).read_bytes()
    if content[:2] in ENCODINGS:
        return ENCODINGS[content[:2]]
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        if b"\0" in content:  # no text
            raise
        return "cp1252"
    return "utf-8-sig"
