"""De-identification: keyed pseudonyms, a separate linkage table, capped ages, scrubbed text.

The output holds pixels, geometry and a few columns of the manifest, but no attribute of DICOM PS3.15 Annex E (Basic
Application Level Confidentiality Profile). Ids are HMAC-SHA256 under a secret key (FIPS 198-1): without the key,
trying all patient numbers does not reveal them.
"""

import contextlib
import csv
import functools
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
from common.file_limits import is_inside
from common.files import atomic_path

KEY_BYTES = 32
ID_CHARACTERS = 16  # 64 bits: two of a million patients collide with probability 3e-8
MAX_AGE = 90  # years; "90 or older" is one group (45 CFR 164.514(b)(2)(i)(C))
IMPOSSIBLE_AGE = 125  # years; a birth date such as 1900-01-01 means unknown
KEY_FILE, LINKAGE_FILE = "key", "linkage.csv"
MIN_SECRET = 4  # characters; shorter identifiers such as "1" or "PA" are not scrubbed, as any text has them
_UID = re.compile(r"\b[0-2](?:\.\d+){4,}\b")
_DATE = re.compile(r"(?<![\d.])(?:19|20)\d{2}(?P<dash>[-/.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])(?!\d)")
_PATH = re.compile(r"(?:\b[A-Za-z]:)?[^\s:;,'\"()\[\]]*[/\\][^\s:;,'\"]+")  # absolute and relative

_private = functools.partial(os.open, mode=0o600)  # opener of files that only the owner can read

log = logging.getLogger(__name__)


class Pseudonyms:
    """The secret key of a linkage folder, and the table from ids to sources; only the owner can read them.

    Deleting the folder afterwards makes the output anonymous.

    Args:
        folder: folder of key and table; created if missing.
        output: folder that is shared.

    Raises:
        UserError: a folder inside `output`, or a key file without a valid key.
    """

    def __init__(self, folder: str | Path, output: str | Path | None = None):
        self.folder = Path(folder).expanduser()
        if output is not None and is_inside(self.folder, Path(output).expanduser()):
            raise UserError(f"linkage={folder}: is inside output={output}, which is shared; choose another")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = _load_or_make_key(self.folder / KEY_FILE)
        self._rows: dict[str, dict] = {}
        self._secrets: set[str] = set()

    def id(self, kind: str, value: str) -> str:
        """The pseudonym of an identifier: 16 hexadecimal digits, the same in every run with this key.

        Equal identifiers of two kinds (`patient`, `study` …) have different ids; surrounding white space is ignored.
        Raises ValueError for an empty identifier, which would merge all patients without one.
        """
        text = value.strip()
        if not text:
            raise ValueError(f"no id for the {kind}: its identifier is empty")
        self._secrets.add(text)
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:ID_CHARACTERS]

    def record(self, row: dict) -> None:
        """Add a row to the linkage table: `row["id"]` is the id, all other values are identifiers."""
        self._rows[row["id"]] = {name: str(value) for name, value in row.items()}
        self._secrets.update(str(value).strip() for name, value in row.items() if name != "id")

    def write(self) -> None:
        """Write the table; it keeps rows of earlier runs whose id was not recorded again."""
        path, rows = self.folder / LINKAGE_FILE, {}
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                rows = {row["id"]: row for row in csv.DictReader(file)}
        rows |= self._rows
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", opener=_private) as file,
        ):
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows.values())

    def scrub(self, text: str) -> str:
        """The text without the identifiers seen so far, paths, UIDs and dates, for a log that is shared."""
        found = (s for s in self._secrets if len(s) >= MIN_SECRET and s in text)  # a regex for each would be slow
        for secret in sorted(found, key=len, reverse=True):
            text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", "[removed]", text)  # as a whole word
        for pattern, word in ((_PATH, "[path]"), (_UID, "[uid]"), (_DATE, "[date]")):
            text = pattern.sub(word, text)
        return text


def age_years(age: str, study_date: str = "", birth_date: str = "") -> int | None:
    """Age in whole years, capped at 90; None where it is unknown or impossible.

    Args:
        age: DICOM Age String (`045Y`, `018M`, `006W`, `003D`) or a number of years; if empty, the dates count.
        study_date, birth_date: DICOM dates `YYYYMMDD`.
    """
    if match := re.fullmatch(r"(\d{1,3})(?:\.0*)?([YMWD]?)", age.strip().upper()):
        years = int(int(match[1]) / {"Y": 1, "": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]])
    else:
        study, birth = _date(study_date), _date(birth_date)
        if study is None or birth is None:
            return None
        years = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    return min(years, MAX_AGE) if 0 <= years < IMPOSSIBLE_AGE else None


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text.strip()[:10].replace(".", "").replace("-", ""), "%Y%m%d").date()
    except ValueError:
        return None


def _load_or_make_key(path: Path) -> bytes:
    with contextlib.suppress(FileExistsError), open(path, "x", encoding="ascii", opener=_private) as file:
        key = secrets.token_bytes(KEY_BYTES)
        file.write(key.hex() + "\n")
        return key
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a key ({type(error).__name__}); restore it, or remove it and all ids") from error
    if len(key) != KEY_BYTES:
        raise UserError(f"{path}: a key of {len(key)} bytes, not {KEY_BYTES}; restore it, or remove it and all ids")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        log.warning("other users can read the key of the pseudonyms; chmod 600 it")
    return key
