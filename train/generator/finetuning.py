"""Starting from another run: its averaged weights, and its latent encoder with the statistics of its data."""

import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from common.errors import UserError, user_errors
from common.files import sha256
from dataset.imaging.hu_window import Window
from ddpm.checkpoint.latent_encoder import make_latent_encoder
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.write import component, header_of, save_adapter
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.latent import LatentEncoder
from train.generator.latent_data import load_latent_encoder

log = logging.getLogger(__name__)


class Origin:
    """The run that `model.init_from` names.

    Args:
        path: checkpoint or exported model of the denoising stage; adapters in it are merged.

    Raises:
        UserError: for a file that is missing or is no such model.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(
                f"model.init_from={path}: no such checkpoint; give the last.ckpt of a run of train/train_ddpm.py"
            )
        self.pipeline = load_pipeline(path)
        self.sha256 = sha256(path)

    @property
    def trained_on(self) -> dict[str, dict]:
        """`key=path` with the run's protocol, which says whom it and what it started from have seen."""
        return {f"model.init_from={self.path}": self.pipeline.protocol}

    def latent_encoder(self, source, latent: DictConfig) -> LatentEncoder:
        """The run's own encoder, measured on the run's own data: its weights know no other latents.

        Raises:
            UserError: if data are missing, or the config names another encoder.
        """
        missing = list(source.missing())
        if missing:
            raise UserError(f"missing: {'; '.join(missing)}")
        encoder = self.pipeline.latent_encoder
        if latent.vae_ckpt or latent.vqgan_ckpt:
            asked = make_latent_encoder(**latent)
            if asked.fingerprint() != encoder.fingerprint():
                key = "vae_ckpt" if latent.vae_ckpt else "vqgan_ckpt"
                raise UserError(
                    f"model.{key}={latent[key]} (fingerprint {asked.fingerprint()}) is not the latent encoder of "
                    f"model.init_from={self.path} ({encoder.fingerprint()}): leave model.vae_ckpt and "
                    "model.vqgan_ckpt out, the run's own is used"
                )
        return encoder

    def pose_regressor(self, asked: bool | None, views: int) -> PoseRegressor | None:
        """The run's own guess of poses, which its linear guess and its denoiser were trained with.

        Raises:
            UserError: if the config asks for what the run does not have, or for the opposite, or has other views.
        """
        own = self.pipeline.pose_regressor
        if asked is not None and asked != (own is not None):
            told = f"model.pose_regressor={str(asked).lower()}: model.init_from={self.path} was trained"
            raise UserError(f"{told} {'without' if own is None else 'with'} it; leave it out")
        if own is not None and len(own.config.azimuths) != views:
            raise UserError(
                f"dataset.views={views}: model.init_from={self.path} guesses the poses of {len(own.config.azimuths)}"
            )
        return own

    def fill(self, parts: dict[str, nn.Module], scheduler) -> None:
        """Loads the averaged weights into untrained parts of the same build.

        Raises:
            UserError: listing what differs between the run and this config.
        """
        theirs = self.pipeline.trained
        wrong = [f"{name} is in one of them only" for name in theirs.keys() ^ parts.keys()]
        pairs = [(name, theirs[name], parts[name]) for name in theirs.keys() & parts.keys()]
        for name, old, new in [*pairs, ("scheduler", self.pipeline.training_scheduler, scheduler)]:
            wrong += _differences(name, component(old), component(new))
        if wrong:
            raise UserError(
                f"model.init_from={self.path} was built otherwise: {'; '.join(sorted(wrong)[:6])}. Give its own "
                "values (--config-path <its run>/.hydra --config-name config repeats them)"
            )
        for name, part in parts.items():
            part.load_state_dict(theirs[name].state_dict())

    def warn_of_shift(self, latents: Tensor, window: Window) -> None:
        """Says so where the new data look different through the old statistics."""
        before = self.pipeline.window
        if before != window:
            log.warning(
                "model.init_from was trained in the HU window [%g, %g], these data are in [%g, %g]",
                *(before.low, before.high, window.low, window.high),
            )
        std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
        if std.max() > 2.0 or std.min() < 0.5 or mean.abs().max() > 1.0:
            log.warning(
                "these data are unlike those of model.init_from: latents have deviations of %.2f to %.2f and means of "
                "up to %.2f where 1 and 0 are expected",
                std.min(),
                std.max(),
                mean.abs().max(),
            )

    def describe(self) -> dict:
        """Plain JSON for the protocol: which file it was, and what it inherits. Its folder stays private."""
        return {"file": self.path.name, "sha256": self.sha256, "inherits": header_of(self.pipeline)["inherits"]}


def open_latent_encoder(source, model: DictConfig) -> tuple[LatentEncoder, Origin | None]:
    """The frozen latent encoder, and the run of `model.init_from` or None; notes the VQ-GAN that was found in `model`.

    Raises:
        UserError: for missing data or files, or an encoder that is not that of `model.init_from`.
    """
    if model.init_from:
        origin = Origin(model.init_from)
        return origin.latent_encoder(source, model.latent), origin
    encoder = load_latent_encoder(source, model.latent)
    model.vqgan_ckpt = model.vqgan_ckpt or encoder.found_at  # a repeated run takes the same
    with user_errors():
        encoder.set_scaling(model.latent_scaling)
    return encoder, None


def _differences(name: str, there: dict, here: dict) -> list[str]:
    if there["class"] != here["class"]:
        return [f"{name} {there['class']} there, {here['class']} here"]
    old, new = there["config"], here["config"]
    keys = (old.keys() | new.keys()) - {"source"}  # where pretrained weights once came from
    return [f"{name}.{key}={old.get(key)} there, {new.get(key)} here" for key in keys if old.get(key) != new.get(key)]


class SaveAdapter(pl.Callback):
    """Writes the averaged adapters alone, `adapter.safetensors`, beside every checkpoint of a LoRA run."""

    def __init__(self, folder: Path, origin: Origin):
        self.path = Path(folder) / "checkpoints" / "adapter.safetensors"
        self.base = origin.describe()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict) -> None:
        """Lightning's hook."""
        averages = module.ema.by_name()
        if trainer.is_global_zero:
            save_adapter(self.path, averages, module.lora, self.base, module.protocol)
