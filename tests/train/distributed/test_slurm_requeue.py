"""A Slurm job: on the signal it saves, submitit requeues it, and it continues bit-equal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.files import ROOT
from train.distributed.slurm_requeue import Requeue
from train.run.run_folder import RUN_FOLDER, run_folder

TINY = ["dataset.train=5", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "trainer.accelerator=cpu", "trainer.devices=1",
        "model.quantise=true",
        "model.n_codes=16", "model.n_hiddens=8", "model.n_res_blocks=1", "model.batch_size=2", "model.max_steps=300",
        "model.warmup_steps=1", "model.validate_every=100", "model.checkpoint_every=10", "model.num_workers=0",
        "model.precision=32"]  # fmt: skip


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train" / "train_vqgan.py"), *overrides, *TINY]
    command += [f"dataset.cache_dir={folder}/cache", f"model.default_root_dir={folder}/runs"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = open(folder / "log", "a")  # noqa: SIM115 (the process writes to it)
    return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)


def until(condition, seconds: float = 900.0):
    end = time.time() + seconds
    while not (found := condition()):
        assert time.time() < end, "timeout"
        time.sleep(0.05)
    return found


@pytest.mark.processes
@pytest.mark.timeout(3600)
def test_a_job_with_a_stop_signal_is_requeued_and_continues(tmp_path):
    (tmp_path / "whole").mkdir()
    assert start(tmp_path / "whole").wait(timeout=900) == 0, (tmp_path / "whole" / "log").read_text()
    sweep = ["-m", "experiment=slurm_vqgan", "hydra/launcher=submitit_local", "trainer=default"]
    run = start(tmp_path, *sweep)
    runs = tmp_path / "runs"
    until(lambda: list(runs.glob("slurm_*/0/checkpoints/last.ckpt")) or run.poll() is not None)
    for process in psutil.Process(run.pid).children(recursive=True):
        if "submitit.core._submit" in process.cmdline():
            process.send_signal(signal.SIGUSR2)
    assert run.wait(timeout=900) == 0, (tmp_path / "log").read_text()
    (log,) = runs.glob("slurm_*/.submitit/*/*_log.out")
    text = log.read_text()
    assert "stop signal received: saved" in text and "Requeued job" in text and "resuming from" in text
    assert text.index("saved") < text.index("Requeued job") < text.index("resuming from")
    (one,), (two,) = (tmp_path / "whole" / "runs").glob("*/checkpoints/last.ckpt"), runs.glob("**/last.ckpt")
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (one, two))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture
def job(tmp_path):
    """A trainer, its callback, and the signals that reach the scheduler's own handlers."""
    received, before = [], {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, frame: received.append(number))
    saved, strategy = [], SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer = SimpleNamespace(accumulate_grad_batches=2, strategy=strategy, saved=saved, save_checkpoint=saved.append)
    callback = Requeue(tmp_path / "last.ckpt", patience=0.2)
    callback.on_train_start(trainer, None)
    yield trainer, callback, received
    callback.teardown(trainer, None, "fit")
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_signal_waits_for_the_step_of_the_optimizer(job):
    trainer, callback, received = job
    os.kill(os.getpid(), signal.SIGUSR2)
    callback.on_train_batch_end(trainer, None, None, None, 0)  # half of the gradients
    assert trainer.saved == [] and received == []
    with pytest.raises(SystemExit):
        callback.on_train_batch_end(trainer, None, None, None, 1)
    assert trainer.saved == [callback.path] and received == [signal.SIGUSR2]


def test_after_sigterm_the_run_saves_and_continues(job):
    trainer, callback, received = job
    os.kill(os.getpid(), signal.SIGTERM)
    for batch in range(4):
        callback.on_train_batch_end(trainer, None, None, None, batch)
    assert trainer.saved == [callback.path] and received == []


def test_the_job_does_not_wait_for_a_long_batch(job):
    trainer, callback, received = job
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(5)
    assert trainer.saved == [] and received == [signal.SIGUSR2]


@pytest.mark.parametrize("name", ["vqgan", "ddpm", "classifier", "encode"])
def test_a_job_has_one_task_per_device(name):
    root = "encode_latents" if name == "encode" else f"train_{name}"
    overrides = [f"experiment=slurm_{name}", "trainer.devices=8", "trainer.num_nodes=2"]
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        cfg = compose(root, overrides, return_hydra_config=True)
    asked = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    assert (asked["nodes"], asked["tasks_per_node"], asked["gpus_per_node"]) == (2, 8, 8)
    assert asked["max_num_timeout"] > 0 and asked["_target_"].endswith("SlurmLauncher")


def test_a_job_continues_in_its_folder_and_a_sweep_has_one_per_run(tmp_path, monkeypatch):
    monkeypatch.setattr("train.run.run_folder.whole_checkpoint", lambda path: (path, {"stage": "vqgan"}))
    other, own = (tmp_path / name / "checkpoints" / "last.ckpt" for name in ("other", "own"))
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path / "own"))
    assert run_folder("vqgan", str(tmp_path)) == (tmp_path / "own", None)
    own.parent.mkdir(parents=True)
    own.touch()
    assert run_folder("vqgan", str(tmp_path)) == (tmp_path / "own", own)
    monkeypatch.delenv(RUN_FOLDER)
    first, _ = run_folder("vqgan", str(tmp_path / "sweep"))
    assert os.environ[RUN_FOLDER] == str(first)  # for processes that Lightning starts
    (first / "checkpoints").mkdir(parents=True)
    (first / "checkpoints" / "last.ckpt").touch()
    time.sleep(0.002)
    second, checkpoint = run_folder("vqgan", str(tmp_path / "sweep"))
    assert second != first and checkpoint is None
