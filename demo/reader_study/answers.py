"""Readers' answers in SQLite: saved at once, with a history of changes, locked when the next volume is shown.

`export` writes the tables `answers/<reader>.csv` that the analysis reads (`evaluation/readers/study_folder.py`). The
tables contain closed readings only, so the analysis never reads a partial reading.

    readings  reader, position (from 1), item, opened, closed (null: open), touched, seconds on screen
    changes   number, reader, position, question, answer (from 1; null: removed), at; append-only
    answers   a view: the last change of every question

Times are UTC. Triggers enforce the rules for every program that writes.
"""

import csv
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from common.errors import UserError
from common.files import atomic_path
from evaluation.readers.study_folder import COLUMNS, Study

VERSION = 1
LOCK_TIMEOUT_S = 10.0  # seconds to wait for another writer
SCHEMA = f"""
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE readings (
    reader TEXT NOT NULL, position INTEGER NOT NULL CHECK (position > 0), item TEXT NOT NULL,
    opened TEXT NOT NULL, closed TEXT, touched TEXT NOT NULL, seconds REAL NOT NULL DEFAULT 0 CHECK (seconds >= 0),
    PRIMARY KEY (reader, position)
);
CREATE TABLE changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, reader TEXT NOT NULL, position INTEGER NOT NULL,
    question TEXT NOT NULL, answer INTEGER CHECK (answer > 0), at TEXT NOT NULL,
    FOREIGN KEY (reader, position) REFERENCES readings (reader, position)
);
CREATE UNIQUE INDEX one_open_reading ON readings (reader) WHERE closed IS NULL;
CREATE INDEX changes_of_reading ON changes (reader, position, question, number);
CREATE VIEW answers AS
    SELECT reader, position, question, answer, at FROM changes
    WHERE number IN (SELECT max(number) FROM changes GROUP BY reader, position, question);
CREATE TRIGGER closed_readings_stay BEFORE UPDATE ON readings WHEN OLD.closed IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the reading is closed'); END;
CREATE TRIGGER readings_stay BEFORE DELETE ON readings BEGIN SELECT RAISE(ABORT, 'readings are kept'); END;
CREATE TRIGGER no_answer_to_a_closed_reading BEFORE INSERT ON changes
    WHEN (SELECT closed FROM readings WHERE reader = NEW.reader AND position = NEW.position) IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'the reading is closed'); END;
CREATE TRIGGER changes_stay BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'changes are kept'); END;
CREATE TRIGGER changes_are_kept BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'changes are kept'); END;
PRAGMA user_version = {VERSION};
"""


class ClosedReading(Exception):
    """An answer to a reading that is not the reader's current one."""


@dataclass(frozen=True)
class Reading:
    """An open reading: position from 1, item, and current answers."""

    position: int
    item: str
    answers: dict[str, int]


class Answers:
    """Answers of one study in one file; thread-safe, because every call opens its own connection."""

    def __init__(self, path: Path, study: Study):
        """Opens or creates the database; UserError for another file or another study's database."""
        self.path, self.study = path, study
        self.limits = {question.name: len(question.choices) for question in study.questions}
        self._exporting = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connect()) as database:
                database.execute("PRAGMA journal_mode = WAL")  # persistent; readers do not wait for writers
            with self._writing() as database:
                if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                    self._create(database)
                version = database.execute("PRAGMA user_version").fetchone()[0]
                about = dict(database.execute("SELECT name, value FROM about"))
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: no database of answers ({error}); move it away or restore it") from error
        if version != VERSION or about.get("study") != study.about["key_sha256"]:
            raise UserError(f"{path}: belongs to another study or version; give each study its own folder of answers")
        self.secret = bytes.fromhex(about["secret"])

    def open(self, reader: str) -> Reading | None:
        """Returns the current reading of `reader` and opens it if needed; None after the last."""
        order = self.study.orders[reader]
        with self._writing() as database:
            position = _first_open(database, reader)
            if position > len(order):
                return None
            # Update `touched`: the time between two visits is not reading time.
            database.execute(
                "INSERT INTO readings (reader, position, item, opened, touched) VALUES (?1, ?2, ?3, ?4, ?4) "
                "ON CONFLICT (reader, position) DO UPDATE SET touched = excluded.touched",
                (reader, position, order[position - 1], _now()),
            )
        return self.current(reader)

    def current(self, reader: str) -> Reading | None:
        """Returns the reader's open reading, or None."""
        with closing(self._connect()) as database:
            row = database.execute(
                "SELECT position, item FROM readings WHERE reader = ? AND closed IS NULL", (reader,)
            ).fetchone()
            if row is None:
                return None
            given = database.execute(
                "SELECT question, answer FROM answers WHERE reader = ? AND position = ? AND answer IS NOT NULL",
                (reader, row[0]),
            )
            return Reading(*row, dict(given))

    def save(self, reader: str, position: int, question: str, answer: int | None, seconds: float = 0.0) -> None:
        """Stores one answer durably; None removes it. ClosedReading and `seconds` as in `close`.

        ValueError for an unknown question or an answer outside its choices.
        """
        if question not in self.limits:
            raise ValueError(f"no question {question!r}")
        if answer is not None and not 1 <= answer <= self.limits[question]:
            raise ValueError(f"{question}={answer}: give 1 to {self.limits[question]}")
        with self._writing() as database:
            self._touch(database, reader, position, seconds)
            database.execute(
                "INSERT INTO changes (reader, position, question, answer, at) VALUES (?, ?, ?, ?, ?)",
                (reader, position, question, answer, _now()),
            )

    def close(self, reader: str, position: int, seconds: float = 0.0) -> None:
        """Locks a reading and writes the reader's table; ClosedReading unless `position` is the reader's current one.

        `seconds` on screen since the last call are limited to the elapsed time.
        """
        with self._writing() as database:
            self._touch(database, reader, position, seconds)
            database.execute(
                "UPDATE readings SET closed = ? WHERE reader = ? AND position = ?", (_now(), reader, position)
            )
        self.export(reader)

    def export(self, reader: str) -> Path | None:
        """Writes `<reader>.csv` atomically and returns its path; None without closed readings."""
        rows = self._table(reader)
        if not rows:
            return None
        path = self.path.parent / f"{reader}.csv"
        with self._exporting, atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *self.limits, "seconds"])
            writer.writeheader()
            writer.writerows(self._table(reader))  # read again inside the lock, for the latest state
        return path

    def export_all(self) -> None:
        """Writes every reader's table; UserError for a table with a position that is not closed in the database."""
        for reader in self.study.orders:
            path = self.path.parent / f"{reader}.csv"
            if path.is_file():
                known = {str(row["position"]) for row in self._table(reader)}
                with open(path, newline="", encoding="utf-8", errors="replace") as file:
                    foreign = [row.get("position") for row in csv.DictReader(file)]
                foreign = [place for place in foreign if place not in known]
                if foreign:
                    raise UserError(
                        f"{path}: position {foreign[0]} is not in {self.path.name}, another program wrote it; "
                        "move it away or give this page its own folder of answers"
                    )
            self.export(reader)

    def _table(self, reader: str) -> list[dict]:
        with closing(self._connect()) as database:
            database.execute("BEGIN")  # one snapshot for both queries
            readings = database.execute(
                "SELECT position, item, seconds FROM readings WHERE reader = ? AND closed IS NOT NULL "
                "ORDER BY position",
                (reader,),
            ).fetchall()
            given = database.execute("SELECT position, question, answer FROM answers WHERE reader = ?", (reader,))
            answers: dict[int, dict] = {}
            for position, question, answer in given:
                answers.setdefault(position, {})[question] = answer
        return [
            {"position": position, "item": item, **answers.get(position, {}), "seconds": round(seconds, 1)}
            for position, item, seconds in readings
        ]

    def _touch(self, database: sqlite3.Connection, reader: str, position: int, seconds: float) -> None:
        row = database.execute(
            "SELECT touched, closed FROM readings WHERE reader = ? AND position = ?", (reader, position)
        ).fetchone()
        if row is None or row[1] is not None:
            raise ClosedReading(f"reading {position} of {reader} is not open")
        now = _now()
        most = (datetime.fromisoformat(now) - datetime.fromisoformat(row[0])).total_seconds()
        database.execute(
            "UPDATE readings SET seconds = seconds + ?, touched = ? WHERE reader = ? AND position = ?",
            (min(max(seconds, 0.0), max(most, 0.0)), now, reader, position),
        )

    def _create(self, database: sqlite3.Connection) -> None:
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError("it holds other tables")
        for statement in _statements(SCHEMA):
            database.execute(statement)
        about = {"study": self.study.about["key_sha256"], "secret": secrets.token_hex(32)}
        database.executemany("INSERT INTO about VALUES (?, ?)", about.items())

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA synchronous = FULL")  # NORMAL can lose the last answers on power failure
        return database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction with the write lock from its start, so its reads stay valid."""
        with closing(self._connect()) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


def _first_open(database: sqlite3.Connection, reader: str) -> int:
    last = database.execute("SELECT max(position) FROM readings WHERE reader = ? AND closed IS NOT NULL", (reader,))
    return (last.fetchone()[0] or 0) + 1


def _statements(script: str) -> Iterator[str]:
    """Yields single statements, because `executescript` commits the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
