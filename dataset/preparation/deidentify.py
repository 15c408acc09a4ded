"""De-identification: keyed pseudonyms in place of identifiers, their linkage kept apart, ages capped, text scrubbed.

What leaves is built up from nothing: pixels, geometry, and the few columns of the manifest. So none of the attributes
of DICOM PS3.15 Annex E (Basic Application Level Confidentiality Profile) is copied at all. Ids are HMAC-SHA256 under a
secret key (FIPS 198-1): without the key nobody can find a patient's id by trying all patient numbers.
"""

import csv
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from datetime import date, datetime
from pathlib import Path

from common.errors import UserError
from common.files import atomic_path

KEY_BYTES = 32
ID_CHARACTERS = 16  # 64 bits: two of a million patients collide with probability 3e-8
OLDEST = 90  # years: from 90 on an age identifies (45 CFR 164.514(b)(2)(i)(C), "90 or older" as one group)
IMPOSSIBLE_AGE = 125  # a birth date such as 1900-01-01 stands for "unknown"
KEY_FILE, LINKAGE_FILE = "key", "linkage.csv"
SHORTEST_SECRET = 4  # characters: "1" or "PA" is no identifier, and would be found in every number
_UID = re.compile(r"\b[0-2](?:\.\d+){4,}\b")
_DATE = re.compile(r"(?<![\d.])(?:19|20)\d{2}(?P<dash>[-/.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])(?!\d)")
_PATH = re.compile(r"(?:\b[A-Za-z]:)?[^\s:;,'\"()\[\]]*[/\\][^\s:;,'\"]+")  # also one relative to anything

log = logging.getLogger(__name__)


class Pseudonyms:
    """The secret key of one linkage folder, and the table that leads back from ids to sources.

    Both files are readable by their owner alone. Who must anonymise for good deletes the folder afterwards.

    Args:
        folder: where key and table live; made when missing.
        output: the folder that is given away: the linkage must not lie in it.

    Raises:
        UserError: a folder inside `output`, or a key file that holds no key.
    """

    def __init__(self, folder: str | Path, output: str | Path | None = None):
        self.folder = Path(folder).expanduser()
        if output is not None:
            inside, outer = self.folder.resolve(), Path(output).expanduser().resolve()
            if inside == outer or outer in inside.parents:
                raise UserError(f"linkage={folder}: lies inside output={output}, which is given away; choose another")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _load_or_make_key(self.folder / KEY_FILE)
        self._rows: dict[str, dict] = {}
        self._secrets: set[str] = set()

    def id(self, kind: str, value: str) -> str:
        """The pseudonym of an identifier: 16 hexadecimal digits, the same in every run with this key.

        Args:
            kind: what is named, such as `patient` or `study`: equal numbers of two kinds give different ids.
            value: the identifier; white space around it does not count.

        Raises:
            ValueError: an empty identifier, which would make one patient of all that have none.
        """
        text = str(value).strip()
        if not text:
            raise ValueError(f"no {kind} to make an id of: it is empty")
        self._secrets.add(text)
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:ID_CHARACTERS]

    def record(self, row: dict) -> None:
        """Note what an id stands for; `row["id"]` is the id, all other values are taken for identifiers."""
        self._rows[str(row["id"])] = {name: "" if value is None else str(value) for name, value in row.items()}
        self._secrets.update(str(value).strip() for name, value in row.items() if name != "id" and value is not None)

    def write(self) -> None:
        """Write the table; rows of earlier runs stay unless their id was recorded again."""
        path = self.folder / LINKAGE_FILE
        rows = {**_read_linkage(path), **self._rows}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", opener=_private) as file,
        ):
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows.values())

    def scrub(self, text: str) -> str:
        """A line fit for a log that is given away: without the identifiers seen so far, paths, UIDs and dates."""
        for secret in sorted((s for s in self._secrets if len(s) >= SHORTEST_SECRET), key=len, reverse=True):
            text = text.replace(secret, "[removed]")
        for pattern, word in ((_PATH, "[path]"), (_UID, "[uid]"), (_DATE, "[date]")):
            text = pattern.sub(word, text)
        return text


def age_years(value, study_date=None, birth_date=None) -> int | None:
    """Age in whole years, capped at 90; None where it is unknown or cannot be.

    Args:
        value: DICOM Age String (`045Y`, `018M`, `006W`, `003D`) or a number of years; empty: from the dates.
        study_date, birth_date: DICOM dates `YYYYMMDD`, or `date` objects.
    """
    text = str(value if value is not None else "").strip().upper()
    if match := re.fullmatch(r"(\d{1,3})(?:\.0*)?([YMWD]?)", text):
        years = int(int(match[1]) / {"Y": 1, "": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]])
    else:
        study, birth = _date(study_date), _date(birth_date)
        if study is None or birth is None:
            return None
        years = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    return min(years, OLDEST) if 0 <= years < IMPOSSIBLE_AGE else None


def _date(value) -> date | None:
    if isinstance(value, date):  # datetime and pydicom's own dates are dates too
        return value
    try:
        return datetime.strptime(str(value or "").strip()[:10].replace(".", "").replace("-", ""), "%Y%m%d").date()
    except ValueError:
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _load_or_make_key(path: Path) -> bytes:
    try:
        with open(path, "x", encoding="ascii", opener=_private) as file:
            key = secrets.token_bytes(KEY_BYTES)
            file.write(key.hex() + "\n")
            return key
    except FileExistsError:
        pass
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a key ({type(error).__name__}); restore it, or remove it and all ids") from error
    if len(key) != KEY_BYTES:
        raise UserError(f"{path}: a key of {len(key)} bytes, not {KEY_BYTES}; restore it, or remove it and all ids")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("the key of the pseudonyms can be read by others; chmod 600 it")
    return key


def _read_linkage(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}
