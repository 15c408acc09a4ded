"""Who may read: the access codes of a study's readers, the sessions they open, and the brake on guessing.

A reader's name (`reader_01`) can be guessed, so it is not what opens the page: each reader gets a random code, written
once to `access_codes.txt`, which whoever runs the study hands out. It is no part of the sealed key.
"""

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # none that looks like another
LENGTH = 12  # letters of a code: 59 bits
SESSION_S = 12 * 3600.0
SESSIONS = 8  # of one reader at a time; the oldest gives way
FAILURES, FAILURES_S = 5, 60.0  # wrong codes that an address may try, and within which time
ADDRESSES = 10_000  # remembered at most; a code is too long to guess from ever so many


def reader_codes(path: Path, readers: Iterable[str]) -> dict[str, str]:
    """The code of every reader, made and written where there is no such file yet (readable by its owner alone).

    Raises:
        UserError: a line that is not `reader code`, a reader without a code or not in the study, a code twice.
    """
    readers = list(readers)
    if not path.exists():
        codes = {reader: "".join(secrets.choice(LETTERS) for _ in range(LENGTH)) for reader in readers}
        grouped = {reader: "-".join(code[i : i + 4] for i in range(0, LENGTH, 4)) for reader, code in codes.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write("".join(f"{reader} {code}\n" for reader, code in grouped.items()))
        return codes
    codes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 2 or len(plain(words[1])) < LENGTH or words[0] not in readers):
            raise UserError(f"{path}: line {number} is not a reader of the study and a code of {LENGTH} letters")
        codes |= {words[0]: plain(words[1])} if words else {}
    lacking = [reader for reader in readers if reader not in codes]
    if lacking or len(set(codes.values())) < len(codes):
        found = f"no code for {lacking[0]}" if lacking else "one code twice"
        raise UserError(f"{path}: {found}; every reader has one of his own, delete the file to make all anew")
    return codes


def plain(code: str) -> str:
    """A code as it is compared: without the hyphens and spaces that people type."""
    return "".join(letter for letter in code.upper() if letter.isalnum())


def reader_of(code: str, codes: dict[str, str]) -> str | None:
    """Whose code it is; every code is compared, each in constant time."""
    given = plain(code).encode()
    same = [reader for reader, own in codes.items() if hmac.compare_digest(own.encode(), given)]
    return same[0] if same else None


@dataclass(frozen=True)
class Session:
    """A reader at work; `proof` is what a page must show besides the cookie to change anything."""

    reader: str
    proof: str
    until: float


class Sessions:
    """Open sessions, in memory: a restart ends them, the answers stay. Tokens are kept as hashes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._open: dict[str, Session] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def start(self, reader: str) -> str:
        """The token of a new session."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._open = {name: session for name, session in self._open.items() if session.until > now}
            own = [name for name, session in self._open.items() if session.reader == reader]
            for name in own[: max(0, len(own) - SESSIONS + 1)]:
                del self._open[name]
            self._open[_digest(token)] = Session(reader, secrets.token_urlsafe(32), now + SESSION_S)
        return token

    def find(self, token: str | None) -> Session | None:
        """The session of a token, if it is open."""
        with self._lock:
            session = self._open.get(_digest(token or ""))
        return session if session and session.until > self._clock() else None

    def end(self, token: str | None) -> None:
        """Ends a session."""
        with self._lock:
            self._open.pop(_digest(token or ""), None)


class LoginLimiter:
    """Counts the codes an address tries; who has tried too many wrong ones waits, with a right one too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._tries: dict[str, list[float]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def enter(self, address: str) -> float:
        """Counts a try before it is judged, so that many at once gain nothing; else gives the seconds to wait."""
        with self._lock:
            now = self._clock()
            recent = [at for at in self._tries.pop(address, ()) if at > now - FAILURES_S]
            wait = recent[0] + FAILURES_S - now if len(recent) >= FAILURES else 0.0
            self._tries[address] = recent if wait else [*recent, now]  # at the end: the longest silent goes first
            if len(self._tries) > ADDRESSES:
                del self._tries[next(iter(self._tries))]
        return wait

    def forgive(self, address: str) -> None:
        """The last try was no failure."""
        with self._lock:
            if self._tries.get(address):
                self._tries[address].pop()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
