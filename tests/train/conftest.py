"""The training command of the second stage in this process, tiny, for the tests of this folder."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from train.run import checkpoint_io
from train.run.run_folder import RUN_FOLDER

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ["dataset.volume_size=[8,16,16]", "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0",
        "model.dim=16", "model.dim_mults=[1]", "model.batch_size=2", "model.train_num_steps=4", "model.warmup_steps=1",
        "model.denoiser.blocks=1",
        "model.prior.rank=2", "model.prior.pixels=8", "model.conditioning.depth_bins=2", "model.validate_every=4",
        "model.save_and_sample_every=2", "model.train_lr=0.01", "model.sampling_timesteps=1", "model.precision=32",
        "model.objective.prediction=v_prediction"]  # fmt: skip
CNN = ["model.xray_encoder.width=8", "model.xray_encoder.blocks=1", "model.xray_encoder.feature_channels=8",
       "model.xray_encoder.embedding_dim=16"]  # fmt: skip
PHANTOMS = ["dataset.train=3", "dataset.val=1", "dataset.test=1"]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs the command in this process; gives the folder of its checkpoints and keeps each of them."""
    path, shared = list(sys.path), tmp_path_factory.mktemp("shared")
    from train import train_ddpm

    sys.path[:] = path  # the script makes room for being run by its file name
    save = checkpoint_io.AtomicCheckpointIO.save_checkpoint

    def kept(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        shutil.copy(path, Path(path).with_name(f"saved{checkpoint['global_step']}.ckpt"))

    def run(results: Path, *overrides: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(RUN_FOLDER, raising=False)
            patch.setattr(checkpoint_io.AtomicCheckpointIO, "save_checkpoint", kept)
            with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
                folders = [f"dataset.cache_dir={shared}/cache", f"model.results_folder={results}"]
                data = [] if any(o.startswith("dataset=") for o in overrides) else PHANTOMS
                encoder = [] if any(o.startswith("model/xray_encoder=") for o in overrides) else CNN
                cfg = compose("train_ddpm", [*TINY, *encoder, *data, *folders, *overrides])
            train_ddpm.main.__wrapped__(cfg)
            os.environ.pop(RUN_FOLDER, None)
        (found,) = results.glob("*/checkpoints/last.ckpt")
        return found.parent

    return run


@pytest.fixture(scope="module")
def save_vae(tmp_path_factory):
    """Saves a tiny VAE of a seed; gives its folder."""
    from diffusers import AutoencoderTiny

    def save(seed: int) -> Path:
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp(f"vae{seed}_")
        widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        AutoencoderTiny(**widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def vae(save_vae) -> Path:
    """The latent encoder of all runs."""
    return save_vae(0)
