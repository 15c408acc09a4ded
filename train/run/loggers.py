"""Curves and pictures: CSV and PNG files always, TensorBoard or Weights and Biases beside them."""

import logging
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

log = logging.getLogger(__name__)


def make_loggers(folder: Path, name: str, offline: bool, images: bool, project: str) -> list:
    """The loggers of a run. Files of the run are written by all of them; `images` lets pictures leave for wandb.

    Raises:
        ValueError: for an unknown name.
    """
    # a resumed run writes new files: CSVLogger deletes those that it finds
    part = next(f"curves_{i}" for i in range(1, 1_000_000) if not (folder / f"curves_{i}").exists())
    loggers: list = [CSVLogger(folder, name="", version=part, flush_logs_every_n_steps=10)]
    if name == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    elif name == "wandb":
        # offline needs no login, and online fails at once instead of waiting for one at a prompt
        import wandb

        if not offline and not wandb.api.api_key:
            raise ValueError(
                "logger.offline=false but wandb knows no key: run wandb login, or leave logger.offline=true"
            )
        settings = wandb.Settings(login_timeout=10, init_timeout=30, finish_timeout=60, silent=True)
        loggers.append(
            PrivateWandbLogger(images, project=project, save_dir=folder, offline=offline, settings=settings)
        )
    elif name != "csv":
        raise ValueError(f"logger.name={name}: choose csv, tensorboard or wandb")
    return loggers


class PrivateWandbLogger(WandbLogger):
    """Weights and Biases that receives no pictures by default, since they may show patients."""

    def __init__(self, images: bool, **options):
        super().__init__(**options)
        self.images = images

    @property
    def experiment(self):
        """The run of wandb; where its server cannot be reached, one that stays on this machine."""
        from wandb.errors import Error

        try:
            return super().experiment
        except Error as error:
            log.warning(
                "wandb: %s; training goes on offline, `wandb sync` sends the curves later", str(error).splitlines()[0]
            )
            self._offline = True
            self._wandb_init |= {"mode": "offline"}
            return super().experiment


def log_picture(trainer: pl.Trainer, name: str, picture: np.ndarray, step: int) -> None:
    """A grey or RGB picture `(h, w[, 3])` uint8: a PNG file in the folder of the run, and to its other loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            folder = Path(logger.log_dir).parent / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{name}_{step:06d}.png")
        elif isinstance(logger, TensorBoardLogger):
            layout = "HWC" if picture.ndim == 3 else "HW"
            logger.experiment.add_image(name, picture, step, dataformats=layout)
        elif isinstance(logger, PrivateWandbLogger) and logger.images:
            logger.log_image(name, [picture], step=step)
