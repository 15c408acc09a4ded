"""The estimated memory is within a quarter of the measured peak of real runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.files import ROOT

DATA = ["dataset.train=8", "dataset.val=1", "dataset.test=1", "dataset.prepare_workers=0", "model.num_workers=0",
        "model.warmup_steps=1"]  # fmt: skip
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its peak memory")
VQGAN = ["model.max_steps=4", "model.n_codes=256", "model.losses.adversarial.start=1000000"]
DDPM = ["model.train_num_steps=4", "model.sampling_timesteps=1", "model.conditioning.channels=16",
        "model.conditioning.depth_bins=4", "model.dim_mults=[1,2,4]"]  # fmt: skip
WIDE = [*DDPM, "dataset.volume_size=[32,64,64]", "model.dim=64", "model.batch_size=4"]
CASES = {
    "a VQ-GAN of crops": ("train_vqgan", [*VQGAN, "dataset.volume_size=[64,64,64]", "model.n_hiddens=64",
                                          "model.crop=[32,32,32]", "model.batch_size=4"]),
    "a wide denoiser": ("train_ddpm", WIDE),
    "with gradient checkpointing": ("train_ddpm", [*WIDE, "model.memory.gradient_checkpointing=true"]),
    "a denoiser of large latents": ("train_ddpm", [*DDPM, "dataset.volume_size=[64,128,128]", "model.dim=32",
                                                   "model.batch_size=1", "model.full_conv=true",
                                                   "model.denoiser.depth_attention=false"]),
}  # fmt: skip


def run(script: str, folder: Path, *overrides: str) -> str:
    key = "model.default_root_dir" if script == "train_vqgan" else "model.results_folder"
    folders = [f"dataset.cache_dir={folder}/cache", f"{key}={folder}/{script}"]
    command = [sys.executable, str(ROOT / "train" / f"{script}.py"), *DATA, *folders, *overrides]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=GPU)])
@pytest.mark.parametrize("name", CASES)
def test_the_estimated_peak_is_within_a_quarter_of_the_measured_one(name, device, tmp_path):
    script, overrides = CASES[name][0], [*CASES[name][1], f"trainer.accelerator={device}"]
    if script == "train_ddpm":
        size = next(o for o in overrides if o.startswith("dataset.volume_size"))
        small = ["model.max_steps=1", "model.n_codes=64", "model.n_hiddens=8", "model.n_res_blocks=1", size]
        run("train_vqgan", tmp_path, *small)
        (first,) = (tmp_path / "train_vqgan").glob("*/checkpoints/last.ckpt")
        overrides = [*overrides, f"model.vqgan_ckpt={first}"]
    text = run(script, tmp_path, *overrides)
    estimated = float(re.search(r"about ([\d.]+) GB at peak", text)[1])
    measured = float(re.search(r"peak memory .*?([\d.]+) GB" + (" on the GPU" if device == "gpu" else ""), text)[1])
    print(f"{name}: estimated {estimated} GB, measured {measured} GB")
    assert estimated == pytest.approx(measured, rel=0.25)
