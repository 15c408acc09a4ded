"""Access to a reader study: access codes, sessions, and a limit of failed logins.

Each reader logs in with a random code from `access_codes.txt`, which the study lead distributes. The sealed key does
not contain the codes.
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

LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # no look-alikes
LENGTH = 12  # letters of a code: 59 bits
SESSION_S = 12 * 3600.0
SESSIONS = 8  # per reader; a new one ends the oldest
FAILURES, FAILURES_S = 5, 60.0  # failed logins per address, and their time window
ADDRESSES = 10_000  # maximum number of addresses in memory


def reader_codes(path: Path, readers: Iterable[str]) -> dict[str, str]:
    """Returns the code of every reader; creates the file with mode 0600 if missing.

    UserError for a malformed line, an unknown reader, a missing or a duplicate code.
    """
    readers = list(readers)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            for reader in readers:
                groups = ("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(LENGTH // 4))
                file.write(f"{reader} {'-'.join(groups)}\n")
    codes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if words and (len(words) != 2 or len(plain(words[1])) < LENGTH or words[0] not in readers):
            raise UserError(f"{path}: line {number} is not a reader of the study and a code of {LENGTH} letters")
        codes |= {words[0]: plain(words[1])} if words else {}
    lacking = [reader for reader in readers if reader not in codes]
    if lacking or len(set(codes.values())) < len(codes):
        found = f"no code for {lacking[0]}" if lacking else "one code twice"
        raise UserError(f"{path}: {found}; every reader needs a unique code, delete the file to create new codes")
    return codes


def plain(code: str) -> str:
    """Returns a code in upper case without hyphens and spaces."""
    return "".join(letter for letter in code.upper() if letter.isalnum())


def reader_of(code: str, codes: dict[str, str]) -> str | None:
    """Returns the reader of a code, or None; compares every code in constant time."""
    given = plain(code).encode()
    same = [reader for reader, own in codes.items() if hmac.compare_digest(own.encode(), given)]
    return same[0] if same else None


@dataclass(frozen=True)
class Session:
    """A session of a reader; `proof` is its CSRF token."""

    reader: str
    proof: str
    until: float


class Sessions:
    """Open sessions in memory, which a restart ends; tokens are stored as hashes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._open: dict[str, Session] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def start(self, reader: str) -> str:
        """Starts a session and returns its token."""
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
        """Returns the open session of a token, or None."""
        with self._lock:
            session = self._open.get(_digest(token or ""))
        return session if session and session.until > self._clock() else None

    def end(self, token: str | None) -> None:
        """Ends a session."""
        with self._lock:
            self._open.pop(_digest(token or ""), None)


class LoginLimiter:
    """Limits failed logins per address; a blocked address must wait even with a correct code."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._tries: dict[str, list[float]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def enter(self, address: str) -> float:
        """Counts a login before its check, so parallel logins count too; returns the seconds to wait, 0 if allowed."""
        with self._lock:
            now = self._clock()
            recent = [at for at in self._tries.pop(address, ()) if at > now - FAILURES_S]
            wait = recent[0] + FAILURES_S - now if len(recent) >= FAILURES else 0.0
            self._tries[address] = recent if wait else [*recent, now]  # at the end: the oldest is deleted first
            if len(self._tries) > ADDRESSES:
                del self._tries[next(iter(self._tries))]
        return wait

    def forgive(self, address: str) -> None:
        """Removes the last login of an address from its failures."""
        with self._lock:
            if self._tries.get(address):
                self._tries[address].pop()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
