"""What a user types, and types wrongly: one line that names the key and the remedy, no traceback, exit code 1."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked_command import run_command

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent.parent
USER_COMMAND = [
    "model=ddpm", "dataset=xrayctpa", "model.vae_ckpt=stabilityai/stable-diffusion-xl-base-1.0",
    "model.results_folder_postfix=lora_finetune", "model.vqgan_ckpt=missing.ckpt", "model.diffusion_img_size=32",
    "model.diffusion_depth_size=64", "model.diffusion_num_channels=4", "model.dim_mults=[1,2,4,8]",
    "model.batch_size=10", "model.gpus=1",
]  # fmt: skip
TINY = ["dataset.train=2", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0"]  # fmt: skip


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line of an error."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def save_tiny_vae(folder: Path) -> None:
    from diffusers import AutoencoderTiny

    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    AutoencoderTiny(**widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder)


def test_a_command_lists_all_that_is_missing_data_first():
    line = refused(run_command("train/train_ddpm.py", *USER_COMMAND))
    assert line.index("dataset.root_dir") < line.index("stabilityai/stable-diffusion-xl-base-1.0")
    assert "hf download" in line


@pytest.mark.parametrize("script", ["train/train_vqgan.py", "train/encode_latents.py", "train/train_ddpm.py",
                                    "evaluation/evaluate.py", "evaluation/generate.py", "train/train_classifier.py",
                                    "evaluation/classification.py", "dataset/prepare.py"])  # fmt: skip
def test_help_lists_every_option_with_a_line(script, tmp_path):
    done = run_command(script, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    options = [line for line in done.stdout.splitlines() if line.startswith("  ") and "=" in line]
    assert len(options) > 8 and all("# " in line for line in options)


def test_cfg_job_shows_the_composed_config_from_anywhere(tmp_path):
    done = run_command("train/train_ddpm.py", "--cfg", "job", "model.batch_size=77", cwd=tmp_path)
    assert done.returncode == 0 and "batch_size: 77" in done.stdout
    command = [sys.executable, "-m", "train.train_ddpm", "--cfg", "job"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "batch_size:" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.batchsize=3"], ["model.batchsize", "unknown key", "model.batch_size"]),
        (["batch_size=3"], ["batch_size", "model.batch_size"]),
        (["dataset=lung"], ["dataset=lung", "phantom"]),
        (["extractor=none"], ["extractor", "no such group"]),
        (["model.vqgan_ckpt=runs/epoch=0-step=3.ckpt"], ["cannot parse", "quote"]),
        (["model.gpus=1", "trainer.devices=3"], ["trainer.devices=3", "model.gpus=1"]),
        (["model.gpus=-2"], ["model.gpus=-2"]),
        (
            ["model/xray_encoder=biomedclip", *TINY, "model.vae_ckpt={vae}"],
            ["model.xray_encoder.weights=microsoft/BiomedCLIP", "hf download microsoft/BiomedCLIP", "Two ways"],
        ),
        (
            ["model.lora.enabled=true", *TINY, "model.vae_ckpt={vae}"],
            ["model.lora.enabled=true", "model.init_from=<checkpoint>"],
        ),
        (["model.resume=nowhere.ckpt", *TINY, "model.vae_ckpt=nowhere"], ["model.vae_ckpt=nowhere"]),
        (["dataset=default"], ["dataset.root_dir"]),
        (["dataset=default", "dataset.root_dir=/nonexistent/folder"], ["/nonexistent/folder"]),
    ],
)
def test_mistakes_become_one_line(overrides, parts, tmp_path):
    vqgan = "model.latent.search=" + str(tmp_path)
    if "model.vae_ckpt={vae}" in overrides:
        save_tiny_vae(tmp_path / "vae")
        overrides = [o.replace("{vae}", str(tmp_path / "vae")) for o in overrides]
    line = refused(run_command("train/train_ddpm.py", *overrides, vqgan, f"model.results_folder={tmp_path}"))
    for part in parts:
        assert part in line


def test_without_a_latent_encoder_the_line_says_what_to_train_first(tmp_path):
    overrides = [*TINY, f"dataset.cache_dir={tmp_path}", f"model.latent.search={tmp_path}"]
    assert "train_vqgan.py" in refused(run_command("train/train_ddpm.py", *overrides))


def test_sizes_that_contradict_the_encoder_show_both(tmp_path):
    save_tiny_vae(tmp_path / "vae")
    overrides = [*TINY, f"dataset.cache_dir={tmp_path}", f"model.vae_ckpt={tmp_path}/vae"]
    line = refused(run_command("train/train_ddpm.py", *overrides, "model.diffusion_img_size=32"))
    assert "model.diffusion_img_size=32" in line and "gives 8" in line
