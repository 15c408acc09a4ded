"""Folders of results: never written over, `latest` points to the newest, as a link or as a text file."""

import os
from pathlib import Path
from threading import Thread

import pytest

from common import files
from common.errors import UserError
from common.files import check_output, follow_latest, result_folder

NAMES = ("metrics.json", "nifti", "table.*")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_run_has_a_new_folder_and_latest_points_to_the_newest(capsys):
    made = [result_folder(None, "evaluate") for _ in range(3)]
    assert len(set(made)) == 3 and all(folder.parent == Path("outputs/evaluate") for folder in made)
    assert capsys.readouterr().out.splitlines() == [f"output: {folder}" for folder in made]
    (made[-1] / "metrics.json").touch()
    assert Path("outputs/evaluate/latest/metrics.json").is_file()


def test_runs_at_the_same_moment_do_not_collide(monkeypatch):
    class Stopped:
        @staticmethod
        def now():
            return __import__("datetime").datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(files, "datetime", Stopped)
    made = []
    threads = [Thread(target=lambda: made.append(result_folder(None, "score"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8 and all(folder.is_dir() for folder in made)


def test_earlier_results_are_refused_or_removed_and_other_files_stay():
    folder = Path("mine")
    for name in ("nifti/old.nii.gz", "table.csv", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(UserError, match="mine/nifti: of an earlier run; .* overwrite=true"):
        result_folder("mine", "evaluate", NAMES)
    assert result_folder("mine", "evaluate", NAMES, overwrite=True) == folder
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert result_folder("mine", "evaluate", NAMES) == folder  # nothing of an earlier run is left


def test_a_check_refuses_as_the_folder_does_and_changes_nothing():
    Path("mine").mkdir()
    for path in (Path("file"), Path("mine/metrics.json")):
        path.touch()
    for output, line in (("mine", "metrics.json: of an earlier run"), ("file/x", "output=file/x: cannot be written")):
        with pytest.raises(UserError, match=line):
            check_output(output, NAMES)
    for output, overwrite in (("mine", True), ("new/folder", False), (None, False)):
        check_output(output, NAMES, overwrite)
    assert sorted(str(path) for path in Path().rglob("*")) == ["file", "mine", "mine/metrics.json"]


def test_without_links_latest_is_a_text_file_that_every_command_follows(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    result_folder(None, "evaluate")
    folder = result_folder(None, "evaluate")
    assert follow_latest("outputs/evaluate/latest") == str(folder)
    assert follow_latest("outputs/evaluate/latest/metrics.json") == str(folder / "metrics.json")
    assert follow_latest("the latest") == "the latest"


def test_a_folder_that_cannot_be_made_ends_in_one_line():
    Path("file").touch()
    with pytest.raises(UserError, match="output=file/x: cannot be written"):
        result_folder("file/x", "score")


def test_processes_of_one_number_write_one_file_at_a_time():
    """Two containers on a shared file system may have the same process number."""
    with files.atomic_path("a.txt") as first, files.atomic_path("a.txt") as second:
        assert first != second and first.suffix == second.suffix == ".txt"
        first.write_text("1")
        second.write_text("2")
    assert Path("a.txt").read_text() == "1" and [path.name for path in Path().iterdir()] == ["a.txt"]


def test_temporary_files_of_killed_processes_are_removed():
    with pytest.raises(KeyboardInterrupt), files.atomic_path("a.txt") as left:
        Path(f"{left}").touch()
        Path(f"{left}.copy").touch()
        raise KeyboardInterrupt
    os.utime(f"{left}.copy", (1, 1))
    Path("b.txt").touch()
    assert files.remove_stale(".") == 1 and [path.name for path in Path().iterdir()] == ["b.txt"]
