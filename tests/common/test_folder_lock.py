"""A folder is written by one process at a time."""

import subprocess
import sys

import pytest

from common.errors import UserError
from common.folder_lock import hold, release

CODE = "import sys; from common.folder_lock import hold; hold(sys.argv[1], 'output'); print('has it'); {then}"


def other(folder, then: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", CODE.format(then=then), str(folder)], capture_output=True, text=True)


def test_another_process_is_rejected_until_the_folder_is_released(tmp_path):
    hold(tmp_path / "run", "output")
    hold(tmp_path / "run", "output")  # this process has it already
    done = other(tmp_path / "run")
    assert done.returncode and "is writing here" in done.stderr and "another output" in done.stderr
    release(tmp_path / "run")
    assert other(tmp_path / "run").stdout == "has it\n"


def test_a_killed_process_leaves_no_lock(tmp_path):
    assert other(tmp_path, "import os; os.kill(os.getpid(), 9)").returncode == -9
    hold(tmp_path, "output")
    release(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output=.*cannot be written"):
        hold(tmp_path / "file" / "run", "output")
