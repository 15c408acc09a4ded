"""Stopped in the middle and resumed, the weights are bit-equal to those of an uninterrupted run."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from forked_command import run_command

DATA = ["dataset.train=3", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0"]  # fmt: skip
VQGAN = ["model.quantise=true",
         "model.n_codes=16", "model.n_hiddens=8", "model.n_res_blocks=1", "model.batch_size=2", "model.max_steps=4",
         "model.warmup_steps=1", "model.losses.adversarial.start=1",
         "model.losses.adversarial.discriminator.channels=4", "model.losses.adversarial.discriminator.num_layers_d=1",
         "model.validate_every=3", "model.checkpoint_every=1",
         "model.picture_every=4"]  # fmt: skip
DDPM = ["model.dim=8", "model.dim_mults=[1]", "model.batch_size=2", "model.train_num_steps=4", "model.warmup_steps=1",
        "model.xray_encoder.width=8", "model.xray_encoder.blocks=1", "model.prior.rank=2",
        "model.prior.pixels=8", "model.xray_encoder.feature_channels=8", "model.xray_encoder.embedding_dim=16",
        "model.denoiser.blocks=1", "model.conditioning.depth_bins=2", "model.validate_every=3",
        "model.save_and_sample_every=1", "model.gradient_accumulate_every=1", "model.sampling_timesteps=2",
        "model.loss_type=l2_disc", "model.losses.adversarial.discriminator.channels=4",
        "model.losses.adversarial.discriminator.num_layers_d=1",
        "model.losses.adversarial.discriminator.kernel_size=2"]  # fmt: skip

CLASSIFIER = ["classifier=xray", "classifier.encoder.width=8", "classifier.encoder.blocks=1", "classifier.dropout=0.5",
              "dataset.train=8", "dataset.val=6", "dataset.test=6", "model.train_num_steps=4", "model.batch_size=4",
              "model.warmup_steps=1", "model.validate_every=1"]  # fmt: skip


def stop_after_saves(count: int) -> None:
    """Ends the process as soon as it has saved `count` checkpoints, as a cluster would."""
    from train.run.checkpoint_io import AtomicCheckpointIO

    save, saved = AtomicCheckpointIO.save_checkpoint, []

    def counted(self, *args, **options):
        save(self, *args, **options)
        saved.append(None)
        if len(saved) == count:
            os._exit(9)

    AtomicCheckpointIO.save_checkpoint = counted


def run(script: str, *overrides: str, stop_at: int | None = None) -> subprocess.CompletedProcess:
    before = None if stop_at is None else partial(stop_after_saves, stop_at)
    return run_command(f"train/{script}", *overrides, env={"OMP_NUM_THREADS": "1"}, before=before)


def weights(folder: Path) -> dict:
    (path,) = folder.glob("*/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    discriminator = content.get("adversarial", {"discriminator": {}})["discriminator"]
    return {**content["state_dict"], **content.get("ema", {}), **discriminator, "codes": content["header"]["stage"]}


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vqgan")
    folders = [f"dataset.cache_dir={folder}/cache", f"model.default_root_dir={folder}/runs"]
    done = run("train_vqgan.py", *DATA, *VQGAN, *folders)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vqgan", "ddpm", "classifier"])
def test_resumed_weights_are_bit_equal(stage, vqgan, tmp_path):
    cache = f"dataset.cache_dir={vqgan}/cache"
    if stage == "vqgan":
        script, key, common = "train_vqgan.py", "model.default_root_dir", [*DATA, *VQGAN, cache]
        whole = vqgan / "runs"
    elif stage == "classifier":
        script, key, common = "train_classifier.py", "model.results_folder", [*DATA, *CLASSIFIER, cache]
        whole = tmp_path / "whole"
        assert run(script, *common, f"{key}={whole}").returncode == 0
    else:
        script, key = "train_ddpm.py", "model.results_folder"
        common = [*DATA, *DDPM, cache, f"model.latent.search={vqgan}/runs"]
        whole = tmp_path / "whole"
        done = run(script, *common, f"{key}={whole}")
        assert done.returncode == 0, done.stderr
        assert str(vqgan / "runs") in done.stderr + done.stdout  # the newest VQ-GAN of the data set
        assert done.stdout.startswith("device: CPU")
        assert "M parameters" in done.stdout and "GB at peak" in done.stdout
    parts = tmp_path / "parts"
    assert run(script, *common, f"{key}={parts}", stop_at=2).returncode == 9
    done = run(script, *common, f"{key}={parts}", "model.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr + done.stdout
    a, b = weights(whole), weights(parts)
    assert a.keys() == b.keys()
    different = [k for k in a if isinstance(a[k], torch.Tensor) and not torch.equal(a[k], b[k])]
    assert different == []
