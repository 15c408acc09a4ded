"""Access codes, sessions, and the limit of failed logins."""

import stat

import pytest

from common.errors import UserError
from demo.reader_study.access import (
    ADDRESSES,
    FAILURES,
    FAILURES_S,
    SESSION_S,
    SESSIONS,
    LoginLimiter,
    Sessions,
    reader_codes,
    reader_of,
)

READERS = ["reader_01", "reader_02"]


def test_codes_are_created_once_with_mode_0600(tmp_path):
    codes = reader_codes(tmp_path / "codes.txt", READERS)
    assert list(codes) == READERS and len(set(codes.values())) == 2 and all(len(c) == 12 for c in codes.values())
    assert reader_codes(tmp_path / "codes.txt", READERS) == codes
    assert stat.S_IMODE((tmp_path / "codes.txt").stat().st_mode) == 0o600


def test_a_code_is_found_in_any_spelling(tmp_path):
    codes = reader_codes(tmp_path / "codes.txt", READERS)
    code = codes["reader_02"]
    for typed in (code, code.lower(), f" {code[:4]}-{code[4:8]} {code[8:]} "):
        assert reader_of(typed, codes) == "reader_02"
    for typed in ("", "reader_02", code[:-1], code + "2", "é" * 12, codes["reader_01"][:6] + code[6:]):
        assert reader_of(typed, codes) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("reader_01 ABCD-EFGH-JKMN\n", "no code for reader_02"),
        ("reader_01 ABCD-EFGH-JKMN\nreader_02 ABCDEFGHJKMN\n", "one code twice"),
        ("reader_01 ABCD-EFGH-JKMN\nreader_02 1\n", "line 2"),
        ("reader_01 ABCD-EFGH-JKMN\nreader_03 BBCD-EFGH-JKMN\n", "line 2"),
    ],
)
def test_a_wrong_code_file_is_an_error_of_one_line(tmp_path, text, line):
    (tmp_path / "codes.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        reader_codes(tmp_path / "codes.txt", READERS)


def test_sessions_end_by_time_by_logout_and_by_number():
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    token = sessions.start("reader_01")
    assert sessions.find(token).reader == "reader_01"
    assert sessions.find(None) is None and sessions.find("x") is None
    now[0] = SESSION_S + 1
    assert sessions.find(token) is None
    tokens = [sessions.start("reader_01") for _ in range(SESSIONS + 1)]
    other = sessions.start("reader_02")
    assert sessions.find(tokens[0]) is None and all(sessions.find(t) for t in [*tokens[1:], other])
    sessions.end(other)
    assert sessions.find(other) is None


def test_the_limiter_blocks_one_address_for_a_minute():
    now = [0.0]
    limiter = LoginLimiter(clock=lambda: now[0])
    assert [limiter.enter("a") for _ in range(FAILURES)] == [0.0] * FAILURES
    assert limiter.enter("a") == FAILURES_S and limiter.enter("b") == 0.0
    now[0] = FAILURES_S - 1.0
    assert limiter.enter("a") == 1.0
    now[0] = FAILURES_S + 1.0
    assert limiter.enter("a") == 0.0


def test_a_correct_code_is_free_and_memory_is_bounded():
    limiter = LoginLimiter(clock=lambda: 0.0)
    for _ in range(3 * FAILURES):
        assert limiter.enter("a") == 0.0
        limiter.forgive("a")
    for number in range(ADDRESSES + 10):
        limiter.enter(f"address {number}")
    assert len(limiter._tries) == ADDRESSES
