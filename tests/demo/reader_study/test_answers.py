"""Answers: one row per reading, a history of changes, closed readings, parallel writers, export."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from reader_files import make_small_study

from common.errors import UserError
from demo.reader_study.answers import Answers, ClosedReading
from evaluation.readers.study_folder import read_answers, read_study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "study"
    make_small_study(folder, repeat_share=0.34)
    return folder


@pytest.fixture
def answers(made, tmp_path):
    return Answers(tmp_path / "answers.sqlite", read_study(made))


def rows(answers: Answers, query: str) -> list[tuple]:
    with closing(sqlite3.connect(answers.path)) as database:
        return database.execute(query).fetchall()


def test_a_reader_sees_every_position_of_the_order_once(answers):
    order = answers.study.orders["reader_01"]
    seen = []
    while (reading := answers.open("reader_01")) is not None:
        assert answers.open("reader_01") == reading  # idempotent
        seen.append(reading.item)
        answers.close("reader_01", reading.position)
    assert seen == order and len(set(order)) < len(order)
    assert rows(answers, "SELECT position, item FROM readings ORDER BY position") == list(enumerate(order, start=1))
    assert answers.current("reader_01") is None and answers.open("reader_02").position == 1


def test_every_change_is_stored_with_its_time_and_the_last_counts(answers):
    answers.open("reader_01")
    for answer in (1, 3, None, 2):
        answers.save("reader_01", 1, "realism", answer)
    assert answers.current("reader_01").answers == {"realism": 2}
    changes = rows(answers, "SELECT answer, at FROM changes ORDER BY number")
    assert [answer for answer, _ in changes] == [1, 3, None, 2]
    assert [at for _, at in changes] == sorted(at for _, at in changes) and all("+00:00" in at for _, at in changes)


def test_an_answer_outside_its_choices_is_refused(answers):
    answers.open("reader_01")
    for question, answer in (("realism", 5), ("realism", 0), ("origin", 3), ("nothing", 1)):
        with pytest.raises(ValueError, match=question):
            answers.save("reader_01", 1, question, answer)
    assert rows(answers, "SELECT * FROM changes") == []


def test_a_closed_reading_cannot_be_changed(answers):
    answers.open("reader_01")
    answers.save("reader_01", 1, "origin", 1)
    answers.close("reader_01", 1)
    for act in (lambda: answers.save("reader_01", 1, "origin", 2), lambda: answers.close("reader_01", 1)):
        with pytest.raises(ClosedReading):
            act()
    with pytest.raises(ClosedReading):
        answers.save("reader_01", 2, "origin", 1)  # not opened yet
    for statement in (
        "INSERT INTO changes (reader, position, question, answer, at) VALUES ('reader_01', 1, 'origin', 2, '')",
        "UPDATE readings SET closed = NULL",
        "UPDATE changes SET answer = 2",
        "DELETE FROM changes",
        "DELETE FROM readings",
    ):
        with closing(sqlite3.connect(answers.path)) as database, pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)
    assert rows(answers, "SELECT answer FROM answers") == [(1,)]


def test_save_is_durable(answers):
    answers.open("reader_01")
    answers.save("reader_01", 1, "pe", 4)
    assert rows(answers, "PRAGMA journal_mode") == [("wal",)]
    again = Answers(answers.path, answers.study)
    assert again.open("reader_01").answers == {"pe": 4} and again.secret == answers.secret


def test_parallel_writers_lose_no_answer(answers):
    answers.open("reader_01"), answers.open("reader_02")

    def save(number: int) -> None:
        answers.save(f"reader_{1 + number % 2:02d}", 1, ("realism", "pe")[number // 2 % 2], 1 + number % 4)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(48)))
    assert rows(answers, "SELECT count(*) FROM changes") == [(48,)]


def test_parallel_closing_closes_once(answers):
    answers.open("reader_01")

    def close(_) -> bool:
        try:
            answers.close("reader_01", 1)
        except ClosedReading:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(close, range(4))) == 1
    assert answers.open("reader_01").position == 2


def test_seconds_are_limited_by_the_elapsed_time(answers, monkeypatch):
    times = iter(f"2026-01-01T00:00:{second:02d}.000+00:00" for second in (0, 10, 10, 30, 30))
    monkeypatch.setattr("demo.reader_study.answers._now", lambda: next(times))
    answers.open("reader_01")
    answers.save("reader_01", 1, "pe", 1, seconds=7.0)
    answers.close("reader_01", 1, seconds=500.0)
    assert rows(answers, "SELECT seconds FROM readings") == [(27.0,)]


def test_the_analysis_reads_closed_readings_only(made, tmp_path):
    study = read_study(made)
    answers = Answers(made / "answers" / "answers.sqlite", study)
    for position in (1, 2):
        answers.open("reader_01")
        answers.save("reader_01", position, "realism", 4)
        answers.save("reader_01", position, "origin", position)
        if position == 1:
            answers.close("reader_01", position)
    table = read_answers(study)
    assert table[["reader", "position", "realism", "origin"]].values.tolist() == [["reader_01", 1, 4.0, 1.0]]
    assert table["pe"].isna().all() and table["item"].tolist() == study.orders["reader_01"][:1]
    (made / "answers" / "reader_01.csv").unlink()
    answers.export_all()  # restores a lost table
    assert len(read_answers(study)) == 1


def test_foreign_answers_are_not_overwritten(made, tmp_path):
    answers = Answers(tmp_path / "a" / "answers.sqlite", read_study(made))
    (tmp_path / "a" / "reader_02.csv").write_text("position,item\n1,v123\n")
    with pytest.raises(UserError, match=r"reader_02.csv: position 1 is not in answers.sqlite"):
        answers.export_all()
    assert (tmp_path / "a" / "reader_02.csv").read_text().endswith("v123\n")


def test_another_database_is_refused(made, answers, tmp_path):
    make_small_study(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another study"):
        Answers(answers.path, read_study(tmp_path / "other"))
    (tmp_path / "text.sqlite").write_text("no database" * 100)
    with pytest.raises(UserError, match="no database of answers"):
        Answers(tmp_path / "text.sqlite", read_study(made))
