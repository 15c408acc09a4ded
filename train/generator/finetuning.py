"""Fine-tuning: starts from the averaged weights and the latent encoder of another run."""

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
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.diffusion.distilled import DISTILLED
from ddpm.latent import LatentEncoder
from ddpm.registry import MEASURED
from evaluation.generation.open_pipeline import SHIPPED
from train.generator.latent_data import check_latent_size, load_latent_encoder

OTHER_FRAME = 1.2  # ratio of the lungs' shares of the volume from which a warning is given

log = logging.getLogger(__name__)


class Origin:
    """The run of `model.init_from`.

    Args:
        path: checkpoint or exported model of the denoising stage, or `shipped`; its adapters are merged.

    Raises UserError for a file that is missing or no such model.
    """

    def __init__(self, path: str | Path):
        self.path = SHIPPED if str(path) == "shipped" else Path(path)
        if not self.path.is_file():
            raise UserError(
                f"model.init_from={path}: {'a folder' if self.path.is_dir() else 'no such checkpoint'}; give the "
                "last.ckpt of a run of train/train_ddpm.py, or a .safetensors file of evaluation/export.py"
            )
        self.pipeline = load_pipeline(self.path)
        if DISTILLED in self.pipeline.protocol:
            teacher = self.pipeline.protocol[DISTILLED]["teacher"]["file"]
            raise UserError(
                f"model.init_from={path}: distilled for few steps, which is no start for training; give its teacher, "
                f"{teacher}, and distil the result with python train/distill.py"
            )
        self.sha256 = sha256(self.path)

    @property
    def trained_on(self) -> dict[str, dict]:
        """`key=path` with the run's protocol, which names the patients of all its training."""
        return {f"model.init_from={self.path}": self.pipeline.protocol}

    def latent_encoder(self, source, latent: DictConfig) -> LatentEncoder:
        """The run's own encoder with the statistics of its data, to which its denoiser is trained.

        Raises UserError if data are missing, or the config names another encoder.
        """
        missing = list(source.missing())
        if missing:
            raise UserError(f"missing: {'; '.join(missing)}")
        encoder = self.pipeline.latent_encoder
        if key := next((key for key in ("maisi_ckpt", "vae_ckpt", "vqgan_ckpt") if latent[key]), None):
            given = make_latent_encoder(**latent)
            if given.fingerprint() != encoder.fingerprint():
                raise UserError(
                    f"model.{key}={latent[key]} (fingerprint {given.fingerprint()}) is not the latent encoder of "
                    f"model.init_from={self.path} ({encoder.fingerprint()}): leave out model.{key} to use its own"
                )
        return encoder

    def check_views(self, views: int, view_drop: float) -> None:
        """Raises UserError if the run has a linear prior that was fitted on other views."""
        prior = self.pipeline.prior
        if prior is None:
            return
        if prior.config.views != views:
            raise UserError(
                f"dataset.views={views}: model.init_from={self.path} was trained on {prior.config.views}; set "
                f"dataset.views={prior.config.views}"
            )
        if view_drop and not isinstance(prior, ViewPriors):
            raise UserError(
                f"model.conditioning.view_drop={view_drop:g}: model.init_from={self.path} has a linear prior of all "
                "views only; set model.conditioning.view_drop=0"
            )

    def pose_regressor(self, asked: bool | None, views: int) -> PoseRegressor | None:
        """The run's own pose regressor, with which its linear prior and its denoiser were trained.

        Raises UserError if `asked` contradicts the run, or the number of views differs.
        """
        own = self.pipeline.pose_regressor
        if asked is not None and asked != (own is not None):
            key = f"model.pose_regressor={str(asked).lower()}: model.init_from={self.path}"
            raise UserError(f"{key} was trained {'without' if own is None else 'with'} it; leave it out")
        if own is not None and len(own.config.azimuths) != views:
            raise UserError(
                f"dataset.views={views}: the pose regressor of model.init_from={self.path} has "
                f"{len(own.config.azimuths)}"
            )
        return own

    def load_into(self, parts: dict[str, nn.Module], scheduler) -> None:
        """Loads the averaged weights into parts; raises UserError listing the differences in their configuration."""
        theirs = self.pipeline.trained
        wrong = [f"{name} is in one of them only" for name in theirs.keys() ^ parts.keys()]
        pairs = [(name, theirs[name], parts[name]) for name in theirs.keys() & parts.keys()]
        for name, old, new in [*pairs, ("scheduler", self.pipeline.training_scheduler, scheduler)]:
            wrong += _differences(name, component(old), component(new))
        if wrong:
            raise UserError(
                f"model.init_from={self.path} differs: {'; '.join(sorted(wrong)[:6])}. Give its own values "
                "(--config-path <its run>/.hydra --config-name config repeats them)"
            )
        for name, part in parts.items():
            part.load_state_dict(theirs[name].state_dict())

    def warn_of_frame(self, protocol: dict) -> None:
        """Warns of lungs whose box takes another share of the volume than in the training of the weights."""
        before, now = (found.get("lung_box") for found in (self.pipeline.protocol, protocol))
        if before is None or now is None:
            return
        shares = [[box[i + 1] - box[i] for i in (0, 2, 4)] for box in (before, now)]
        if any(max(a, b) > OTHER_FRAME * min(a, b) for a, b in zip(*shares, strict=True)):
            trained, given = (" x ".join(f"{100 * share:.0f}" for share in part) for part in shares)
            log.warning(
                "the lungs fill %s %% of the volumes (height, depth, width) where model.init_from was trained with %s "
                "%%; crop the CTs as its training did (the included weights: dataset/prepare.py margin=40)",
                *(given, trained),
            )

    def warn_of_shift(self, latents: Tensor, window: Window) -> None:
        """Warns of another HU window, and of latents that are not standardised by the run's statistics."""
        before = self.pipeline.window
        if before != window:
            log.warning(
                "model.init_from was trained in the HU window [%g, %g], these data are in [%g, %g]",
                *(before.low, before.high, window.low, window.high),
            )
        std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
        wide = std.square().mean().sqrt()  # at most 1 in the training, whatever the scale of the channels
        if wide > 2.0 or std.max() < 0.5 or mean.abs().max() > std.max().clamp_min(1.0):
            log.warning(
                "these data differ from those of model.init_from: latents have a standard deviation of %.2f and "
                "means of up to %.2f instead of 1 and 0",
                *(wide, mean.abs().max()),
            )

    def describe(self) -> dict:
        """Plain JSON for the protocol: name and hash of the file without its folder, and inherited licences."""
        return {"file": self.path.name, "sha256": self.sha256, "inherits": header_of(self.pipeline)["inherits"]}


def open_latent_encoder(
    source, cfg: DictConfig, origin: Origin | None
) -> tuple[LatentEncoder, tuple[int, int, int, int]]:
    """The frozen latent encoder, and the shape `(c, d, h, w)` of its latents.

    Sets `model.vqgan_ckpt` to the VQ-GAN that was found, so that a repeated run takes the same.

    Raises UserError for missing data or files, sizes that do not fit, or an encoder that is not that of `origin`.
    """
    model = cfg.model
    if origin is not None:
        encoder = origin.latent_encoder(source, model.latent)
    else:
        encoder = load_latent_encoder(source, model.latent)
        model.vqgan_ckpt = model.vqgan_ckpt or encoder.found_at
        with user_errors():
            encoder.set_scaling(model.latent_scaling)
    return encoder, check_latent_size(encoder, tuple(cfg.dataset.volume_size), model)


def _differences(name: str, there: dict, here: dict) -> list[str]:
    if there["class"] != here["class"]:
        return [f"{name} {there['class']} there, {here['class']} here"]
    old, new = there["config"], here["config"]
    keys = (old.keys() | new.keys()) - {"source"}  # the former place of pretrained weights
    return [f"{name}.{key}={old.get(key)} there, {new.get(key)} here" for key in keys if old.get(key) != new.get(key)]


class SaveAdapter(pl.Callback):
    """Writes the averaged adapters and the measured parts beside every checkpoint, as `adapter.safetensors`."""

    def __init__(self, folder: Path, origin: Origin):
        self.path = Path(folder) / "checkpoints" / "adapter.safetensors"
        self.base = origin.describe()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict) -> None:
        averages = module.ema.by_name()
        if trainer.is_global_zero:
            measured = {name: part for name, part in module.frozen.items() if name in MEASURED}
            save_adapter(self.path, averages, module.lora, self.base, module.protocol, measured)
