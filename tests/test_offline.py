"""No network unless the user asks for it: the whole chain runs with every connection closed but the local ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from forked_command import run_command
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
GUARD = ROOT / "tests" / "network_guard"
DATA = ["dataset=phantom", "dataset.train=4", "dataset.val=2", "dataset.test=2", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]"]  # fmt: skip
VQGAN = ["model.n_codes=16", "model.embedding_dim=2", "model.n_hiddens=8", "model.n_res_blocks=1",
         "model.max_steps=4", "model.batch_size=1", "model.validate_every=4", "model.checkpoint_every=4",
         "model.picture_every=4"]  # fmt: skip
DDPM = ["model.dim=8", "model.dim_mults=[1]", "model.train_num_steps=4", "model.batch_size=1", "model.warmup_steps=1",
        "model.validate_every=4", "model.save_and_sample_every=4", "model.sampling_timesteps=2", "model.prior.rank=2",
        "model.xray_encoder.width=8", "model.xray_encoder.blocks=1", "model.xray_encoder.feature_channels=8",
        "model.conditioning.channels=2", "model.denoiser.blocks=1"]  # fmt: skip


def closed(*command: str, home: Path) -> subprocess.CompletedProcess:
    """A Python process, and what it starts, without a network, a cache of downloads or a login."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WANDB_", "PYTHONPATH"))}
    clean |= {"PYTHONPATH": str(GUARD), "HOME": str(home), "WANDB_DIR": str(home)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=clean, cwd=ROOT)


def close_network() -> None:
    """Does to this process what the guard does at the start of another; the hub is not told to stay offline."""
    huggingface_hub.constants.HF_HUB_OFFLINE = False
    exec((GUARD / "sitecustomize.py").read_text(), {})


def run(script: str, *overrides: str, home: Path, imports: bool = False) -> str:
    """With `imports` in a process that imports the libraries behind the guard."""
    environment = {"PYTHONPATH": str(GUARD), "HOME": str(home), "WANDB_DIR": str(home), "HF_HUB_OFFLINE": "0"}
    if imports:
        done = closed(str(ROOT / script), *overrides, home=home)
    else:
        done = run_command(script, *overrides, env=environment, before=close_network)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NETWORK CLOSED" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("code", [
    "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)",
    "import urllib.request; urllib.request.urlopen('https://example.org', timeout=5)",
    "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import socket; "
    "socket.getaddrinfo(\"example.org\", 80)']))",
])  # fmt: skip
def test_the_guard_closes_the_network(tmp_path, code):
    done = closed("-c", code, home=tmp_path)
    assert done.returncode != 0 and "NETWORK CLOSED" in done.stderr


def test_the_guard_leaves_loopback_open(tmp_path):
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()); socket.getaddrinfo('localhost', 80); socket.socketpair()"
    )
    assert closed("-c", code, home=tmp_path).returncode == 0


@pytest.mark.slow
def test_the_whole_chain_without_a_network(tmp_path):
    data = [*DATA, f"dataset.cache_dir={tmp_path}/cache"]
    run("train/train_vqgan.py", *data, *VQGAN, f"model.default_root_dir={tmp_path}/vq", home=tmp_path)
    found = [f"model.latent.search={tmp_path}/vq", f"model.results_folder={tmp_path}/ddpm", "logger=wandb"]
    run("train/train_ddpm.py", *data, *DDPM, *found, home=tmp_path)
    evaluation = [f"checkpoint={tmp_path}/ddpm", "samples=1", "sampler.steps=2", f"output={tmp_path}/evaluated"]
    run("evaluation/evaluate.py", *data, *evaluation, home=tmp_path)
    assert json.loads((tmp_path / "evaluated" / "metrics.json").read_text())["methods"]["model"]["psnr"]
    film = np.add.outer(np.arange(64) * 2, np.arange(64)) % 255
    Image.fromarray(film.astype(np.uint8)).save(tmp_path / "film.png")
    options = [f"xray={tmp_path}/film.png", f"checkpoint={tmp_path}/ddpm", "sampler.steps=2", "align=none"]
    options.append("allow_any_picture=true")
    run("evaluation/generate.py", *options, f"output={tmp_path}/out", home=tmp_path, imports=True)
    assert list((tmp_path / "out").glob("*_synthetic_ct.nii.gz"))
    run("evaluation/export.py", f"checkpoint={tmp_path}/ddpm", f"output={tmp_path}/model", home=tmp_path)
    assert (tmp_path / "model" / "model_index.json").is_file()


@pytest.mark.slow
def test_a_hub_id_without_a_network_is_one_line(tmp_path):
    asked = "model.vae_ckpt=stabilityai/sdxl-vae"
    done = closed(str(ROOT / "train/train_ddpm.py"), *DATA, asked, f"dataset.cache_dir={tmp_path}", home=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the hub cannot be reached" in done.stderr and "hf download stabilityai/sdxl-vae" in done.stderr
