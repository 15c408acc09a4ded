"""The command of docs/training.md for a pretrained 2D VAE, on pairs of X-ray and CTPA at full size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dataset.imaging.drr import render_xray
from dataset.imaging.geometry import make_pose
from dataset.io.nifti import write_nifti
from dataset.phantom.render import render_phantom
from ddpm.checkpoint.load import load_pipeline

ROOT = Path(__file__).resolve().parent.parent
TAESDXL = ROOT.parent / "shared" / "models" / "taesdxl"
SIZE, CASES = (64, 256, 256), 6


def write_pairs(folder: Path) -> Path:
    """Phantoms as a hospital's pairs: a CTPA in NIfTI, a radiograph in PNG of unknown pose, a table."""
    rows = []
    for i in range(CASES):
        phantom = render_phantom(i, size=SIZE)
        extent = tuple(n * s for n, s in zip(SIZE, phantom.spacing, strict=True))
        plain = torch.from_numpy(phantom.hu_plain[:, ::2, ::2].copy())
        spacing = (phantom.spacing[0], 2 * phantom.spacing[1], 2 * phantom.spacing[2])
        film = render_xray(plain, spacing, make_pose(extent)[None], (256, 256))[0]
        ct, xray = f"ctpa/{i:04d}.nii.gz", f"xray/{i:04d}.png"
        write_nifti(folder / ct, phantom.hu, phantom.spacing, description="phantom")
        (folder / "xray").mkdir(exist_ok=True)
        Image.fromarray((film.numpy() * 65535).astype(np.uint16)).save(folder / xray)
        rows.append({"id": f"case{i:04d}", "patient": f"p{i:04d}", "ct": ct, "xray": xray, "label": phantom.label})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_readme_command_trains(tmp_path):
    if not TAESDXL.is_dir():
        pytest.skip("TAESDXL not found at ../shared/models/taesdxl")
    root = write_pairs(tmp_path / "pairs")
    batch = 10 if torch.cuda.is_available() else 1
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "train" / "train_ddpm.py"), "model=ddpm", "dataset=xrayctpa",
            f"dataset.root_dir={root}", f"model.vae_ckpt={TAESDXL}", "model.results_folder_postfix=lora_finetune",
            "model.vqgan_ckpt=not/read.ckpt", "model.diffusion_img_size=32", "model.diffusion_depth_size=64",
            "model.diffusion_num_channels=4", "model.dim_mults=[1,2,4,8]", f"model.batch_size={batch}",
            "model.gpus=1", "model.train_num_steps=2", "model.sampling_timesteps=1",
            f"model.results_folder={tmp_path}/runs", f"dataset.cache_dir={tmp_path}/cache",
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "latents [4, 64, 32, 32]" in done.stdout and "dB PSNR (range 700 HU)" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("peak memory")]
    print(f"\nthe README's command, batch {batch}: {line}")
    (path,) = (tmp_path / "runs").glob("*_lora_finetune/checkpoints/last.ckpt")
    pipeline = load_pipeline(path)
    assert pipeline.volume_size == SIZE and pipeline.protocol["dataset"] == "xrayctpa"
    assert pipeline.protocol["window"] == [-200, 500] and "psnr_db" in pipeline.protocol["latent_reconstruction"]
