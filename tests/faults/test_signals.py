"""SIGTERM and Ctrl-C: saved, said and ended within 10 seconds (of a free core), and gone on from bit for bit."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fault_runs import differing, stages, stages_and

SECONDS = 10.0
BOTH = {"SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}


def running() -> float:
    """Processes that want a core, per core: of the last minute or now, whichever is more."""
    now = Path("/proc/loadavg")
    count = int(now.read_text().split()[3].partition("/")[0]) if now.is_file() else 0
    return max(os.getloadavg()[0], count) / len(os.sched_getaffinity(0))


def ended(command, number: int) -> str:
    """The line of a terminated command."""
    start, load = time.monotonic(), running()
    command.signal(number)
    line = command.refusal()
    shared = max(1.0, load, running())  # other work takes its share of the time
    assert time.monotonic() - start < SECONDS * shared
    return line


@stages_and("name", BOTH, ("vqgan", "Ctrl-C"), ("ddpm", "SIGTERM"))
def test_training_saves_and_ends(training, name, request):
    command, times = training.start(slow_batches={"seconds": 0.02}), 0
    chance = random.Random(f"{training.stage} {name}")
    while times < 3:
        training.until_saved(command, 1)
        before = training.saves()
        time.sleep(chance.uniform(0.0, 0.2))
        line = ended(command, BOTH[name])
        assert "interrupted" in line and "model.resume=auto" in line and f"saved {training.last}" in line
        assert training.saves() != before
        command, times = training.resume(slow_batches={"seconds": 0.02}), times + 1
    command.fine()
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@stages()
def test_a_batch_that_takes_longer_than_the_patience(training, request):
    """The run does not wait for it: it ends with the checkpoint that it has."""
    command = training.start(slow_batches={"seconds": 30.0, "first": 6})
    training.until_saved(command, 3)
    time.sleep(1.0)
    assert "the last checkpoint is unchanged" in ended(command, signal.SIGTERM)
    training.resume().fine()
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@pytest.mark.faults
@pytest.mark.parametrize("training", ["ddpm"], indirect=True)
def test_within_sampled_volumes(training, request):
    """They take long, but the state is whole: it is saved at once."""
    command = training.start(slow_sampling={"seconds": 30.0})
    command.until(lambda: (training.place / "sampling").exists())
    line = ended(command, signal.SIGTERM)
    assert f"saved {training.last}" in line
    training.resume().fine()
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []


@pytest.mark.faults
@pytest.mark.parametrize("name", BOTH)
def test_other_commands_end_with_a_line(name, server, whole_vqgan, tmp_path):
    words = [w for w in whole_vqgan.words if not w.startswith("dataset.cache_dir")]
    command = server.start("train/train_vqgan.py", *words, f"dataset.cache_dir={tmp_path}/cache", place=tmp_path,
                           slow_files={"seconds": 0.5})  # fmt: skip
    command.until(lambda: list(tmp_path.glob("cache/*/cases/phantom*")))
    assert "interrupted; the same command" in ended(command, BOTH[name])
    assert not [path for path in tmp_path.glob("cache/*/cases/*") if path.name.startswith(".")]
