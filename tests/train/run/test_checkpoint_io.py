"""Checkpoints are written atomically."""

import resource
import signal
from collections import OrderedDict

import pytest
import torch
from forked_command import in_a_process

from common.errors import UserError
from train.run.checkpoint_io import AtomicCheckpointIO


def test_round_trip_without_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")  # it may be on another file system
    io, path = AtomicCheckpointIO(), tmp_path / "deep" / "last.ckpt"
    io.save_checkpoint({"a": torch.arange(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["a"], torch.arange(3))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    io.remove_checkpoint(path)
    assert not path.exists()


def save_on_a_small_disk(path) -> str:
    """The error of a checkpoint of 4 MB where a file may have 0.1 MB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(UserError) as caught:
        AtomicCheckpointIO().save_checkpoint({"big": torch.ones(1_000_000)}, path)
    return str(caught.value)


@pytest.mark.slow
def test_full_disk_keeps_the_last_good_one(tmp_path):
    """A limit on the size of files stands for a full disk: the write fails half way, in a process of its own."""
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"good": torch.ones(10)}, path)
    message = in_a_process(save_on_a_small_disk, path)
    assert "last.ckpt: the checkpoint cannot be written" in message and "last good one is kept" in message
    assert torch.equal(io.load_checkpoint(path)["good"], torch.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="model.results_folder"):
        AtomicCheckpointIO().save_checkpoint({"a": 1}, tmp_path / "file" / "last.ckpt")


class Signalling:
    """Raises SIGTERM while it is written."""

    def __reduce__(self):
        signal.raise_signal(signal.SIGTERM)
        return OrderedDict, ()


@pytest.mark.parametrize("end", [SystemExit, RuntimeError])
def test_a_signal_waits_for_the_checkpoint(tmp_path, end):
    """torch's writer would turn an exception of the handler into a write error."""
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"

    def handler(number, frame):
        raise end("signal")

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(end, match="signal"):
            io.save_checkpoint({"signal": Signalling(), "a": torch.arange(3)}, path)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert torch.equal(io.load_checkpoint(path)["a"], torch.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
