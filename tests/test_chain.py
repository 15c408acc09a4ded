"""The whole chain as commands, small: VQ-GAN, DDPM, evaluation, generation from an X-ray file."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forked_command import run_command
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.nightly
VQGAN = ["model.n_hiddens=16", "model.n_codes=256", "model.max_steps=120", "model.validate_every=60"]
DDPM = ["model.dim=16", "model.dim_mults=[1,2]", "model.xray_encoder.width=16", "model.train_num_steps=100",
        "model.warmup_steps=10", "model.validate_every=50", "model.save_and_sample_every=50"]  # fmt: skip
BASELINES = {"model", "model_sample", "mean_volume", "nearest", "ridge", "shuffled_xray"}


def run(script: str, *overrides: str) -> str:
    done = run_command(script, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def chain(tmp_path: Path, data: list[str], *vqgan: str, samples: int = 2) -> Path:
    """Trains both stages, evaluates, and returns the folder of results."""
    data = [*data, f"dataset.cache_dir={tmp_path}/cache"]
    run(
        "train/train_vqgan.py", "experiment=demo_vqgan", *data, f"model.default_root_dir={tmp_path}/vq", *VQGAN, *vqgan
    )
    found = f"model.latent.search={tmp_path}/vq"
    run("train/train_ddpm.py", "experiment=demo_ddpm", *data, found, f"model.results_folder={tmp_path}/ddpm", *DDPM)
    out = run(
        "evaluation/evaluate.py", *data, f"checkpoint={tmp_path}/ddpm", f"output={tmp_path}/out", f"samples={samples}"
    )
    assert out.strip().endswith("report.html")
    return tmp_path / "out"


def falling(run_folder: Path, column: str) -> bool:
    """Whether the mean of the last quarter of a curve lies below that of the first."""
    import pandas as pd

    (file,) = run_folder.glob("*/curves_1/metrics.csv")
    values = pd.read_csv(file)[column].dropna().to_numpy()
    quarter = max(1, len(values) // 4)
    return values[-quarter:].mean() < values[:quarter].mean()


def test_chain_on_phantoms(tmp_path):
    data = [
        "dataset.train=12",
        "dataset.val=2",
        "dataset.test=4",
        "dataset.volume_size=[32,32,32]",
        "dataset.xray_size=[64,64]",
    ]
    folder = chain(tmp_path, data, "model.crop=null")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["methods"]) >= BASELINES
    for method in BASELINES:
        psnr = metrics["methods"][method]["psnr"]
        assert psnr["low"] <= psnr["mean"] <= psnr["high"]
    assert metrics["protocol"]["window"] == [-1000, 1000]
    assert falling(tmp_path / "vq", "train/l1") and falling(tmp_path / "ddpm", "train/loss")
    volume = nib.load(next((folder / "nifti").glob("*generated.nii.gz")))
    assert b"SYNTHETIC" in volume.header["descrip"].item()
    assert np.allclose(sorted(volume.header.get_zooms()), sorted((352 / 32, 256 / 32, 320 / 32)), atol=1e-3)


def test_chain_on_real_ct_and_a_real_film(tmp_path, real_data):
    data = ["dataset=default", f"dataset.root_dir={real_data}/ct", "dataset.volume_size=[32,32,32]"]
    chain(tmp_path, data)
    assert falling(tmp_path / "vq", "train/l1") and falling(tmp_path / "ddpm", "train/loss")
    film = next((real_data / "xray").glob("*.png"))
    for name in ("a", "b"):
        run("evaluation/generate.py", f"xray={film}", f"checkpoint={tmp_path}/ddpm", f"output={tmp_path}/{name}")
    first, second = (next((tmp_path / n).glob("*.nii.gz")) for n in ("a", "b"))
    hu = nib.load(first).get_fdata()
    assert np.array_equal(hu, nib.load(second).get_fdata())  # the same seed gives the same volume
    assert hu.min() >= -1024 and hu.max() > -200 and hu.std() > 50
    assert np.asarray(Image.open(next((tmp_path / "a").glob("*.png")))).std() > 10


def test_two_dimensional_vae_path_with_taesdxl(tmp_path, real_data):
    folder = real_data.parent / "models" / "taesdxl"
    if not folder.is_dir():
        pytest.skip("TAESDXL not found at ../shared/models/taesdxl")
    out = run(
        "train/train_ddpm.py", "model=ddpm", "dataset=phantom", "dataset.train=4", "dataset.val=1",
        "dataset.test=1", "dataset.volume_size=[16,64,64]", f"dataset.cache_dir={tmp_path}",
        "model.diffusion_img_size=8", "model.diffusion_depth_size=16", "model.diffusion_num_channels=4",
        f"model.vae_ckpt={folder}", "model.gpus=1",
        "model.dim=16", "model.batch_size=2", "model.train_num_steps=6", "model.save_and_sample_every=3",
        f"model.results_folder={tmp_path}/runs",
    )  # fmt: skip
    assert "latents [4, 16, 8, 8]" in out
    assert list(tmp_path.glob("runs/*/checkpoints/last.ckpt"))
