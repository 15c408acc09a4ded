"""Stopped in the middle and resumed, the weights are bit-equal to those of an uninterrupted run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.files import ROOT

DATA = ["dataset.train=5", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0"]  # fmt: skip
VQGAN = ["model.n_codes=16", "model.n_hiddens=8", "model.n_res_blocks=1", "model.batch_size=2", "model.max_steps=7",
         "model.warmup_steps=1", "model.losses.adversarial.start=2",
         "model.losses.adversarial.discriminator.channels=4", "model.losses.adversarial.discriminator.num_layers_d=1",
         "model.validate_every=3", "model.checkpoint_every=1"]  # fmt: skip
DDPM = ["model.dim=8", "model.dim_mults=[1]", "model.batch_size=2", "model.train_num_steps=7", "model.warmup_steps=1",
        "model.xray_encoder.width=8", "model.xray_encoder.feature_channels=8", "model.xray_encoder.embedding_dim=16",
        "model.denoiser.blocks=1", "model.conditioning.depth_bins=2", "model.validate_every=3",
        "model.save_and_sample_every=1", "model.gradient_accumulate_every=1", "model.sampling_timesteps=2",
        "model.loss_type=l2_disc", "model.losses.adversarial.discriminator.channels=4",
        "model.losses.adversarial.discriminator.num_layers_d=1",
        "model.losses.adversarial.discriminator.kernel_size=2"]  # fmt: skip


def run(script: str, *overrides: str, stop_at: int | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """A training command; `stop_at` kills it as soon as that many batches were saved, as a cluster would."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if stop_at is not None:
        env["STOP_AFTER_SAVES"] = str(stop_at)
    code = """
import os, runpy, sys
from common.files import ROOT
from train.run import checkpoint_io
save, count = checkpoint_io.AtomicCheckpointIO.save_checkpoint, [0]
def counted(self, *args, **options):
    save(self, *args, **options)
    count[0] += 1
    if count[0] == int(os.environ.get("STOP_AFTER_SAVES", 10**9)):
        os._exit(9)
checkpoint_io.AtomicCheckpointIO.save_checkpoint = counted
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, str(ROOT / "train" / script), *overrides]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def weights(folder: Path) -> dict:
    (path,) = folder.glob("*/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    judge = content.get("adversarial", {"discriminator": {}})["discriminator"]
    return {**content["state_dict"], **content.get("ema", {}), **judge, "codes": content["header"]["stage"]}


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vqgan")
    folders = [f"dataset.cache_dir={folder}/cache", f"model.default_root_dir={folder}/runs"]
    done = run("train_vqgan.py", *DATA, *VQGAN, *folders)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_resumed_weights_are_bit_equal(stage, vqgan, tmp_path):
    cache = f"dataset.cache_dir={vqgan}/cache"
    if stage == "vqgan":
        script, key, common = "train_vqgan.py", "model.default_root_dir", [*DATA, *VQGAN, cache]
        whole = vqgan / "runs"
    else:
        (latent,) = (vqgan / "runs").glob("*/checkpoints/last.ckpt")
        script, key = "train_ddpm.py", "model.results_folder"
        common = [*DATA, *DDPM, cache, f"model.vqgan_ckpt={latent}"]
        whole = tmp_path / "whole"
        done = run(script, *common, f"{key}={whole}")
        assert done.returncode == 0, done.stderr
    parts = tmp_path / "parts"
    assert run(script, *common, f"{key}={parts}", stop_at=4).returncode == 9
    done = run(script, *common, f"{key}={parts}", "model.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr + done.stdout
    a, b = weights(whole), weights(parts)
    assert a.keys() == b.keys()
    different = [k for k in a if isinstance(a[k], torch.Tensor) and not torch.equal(a[k], b[k])]
    assert different == []


def test_the_newest_vqgan_of_the_data_set_is_found(vqgan, tmp_path):
    overrides = [*DATA, *DDPM, f"dataset.cache_dir={vqgan}/cache", f"model.latent.search={vqgan}/runs"]
    done = run("train_ddpm.py", *overrides, f"model.results_folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert str(vqgan / "runs") in done.stderr + done.stdout
    assert done.stdout.startswith("device: CPU")
    assert "M parameters" in done.stdout and "GB at peak" in done.stdout
