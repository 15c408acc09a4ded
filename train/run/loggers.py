"""Curves and pictures: always CSV and PNG files, also TensorBoard or Weights and Biases if chosen."""

import logging
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

log = logging.getLogger(__name__)


def make_loggers(folder: Path, name: str, offline: bool, images: bool, project: str) -> list:
    """The loggers of a run, which write into its folder; `images` sends pictures to wandb.

    Raises ValueError for an unknown name, or online wandb without a key.
    """
    # a resumed run writes a new file, because CSVLogger deletes an existing one
    part = next(f"curves_{i}" for i in range(1, 1_000_000) if not (folder / f"curves_{i}").exists())
    loggers: list = [CSVLogger(folder, name="", version=part, flush_logs_every_n_steps=10)]
    if name == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    elif name == "wandb":
        import wandb

        if not offline and not wandb.api.api_key:  # wandb would wait for input
            raise ValueError("logger.offline=false but wandb has no key: run wandb login, or set logger.offline=true")
        settings = wandb.Settings(login_timeout=10, init_timeout=30, finish_timeout=60, silent=True)
        options = {"project": project, "save_dir": folder, "offline": offline, "settings": settings}
        loggers.append(PrivateWandbLogger(images, **options))
    elif name != "csv":
        raise ValueError(f"logger.name={name}: choose csv, tensorboard or wandb")
    return loggers


def curves_line(folder: Path, loggers: list) -> str:
    """Where the curves of a run are, and how to open them."""
    hints = {TensorBoardLogger: f"tensorboard --logdir {folder}", PrivateWandbLogger: f"wandb, in {folder / 'wandb'}"}
    others = [hints[type(logger)] for logger in loggers if type(logger) in hints]
    return "; ".join([f"curves: {Path(loggers[0].log_dir) / 'metrics.csv'}, a table by step", *others])


class PrivateWandbLogger(WandbLogger):
    """Weights and Biases without pictures by default, since they may show patients."""

    def __init__(self, images: bool, **options):
        super().__init__(**options)
        self.images = images

    @property
    def experiment(self):
        """wandb's run; an offline one if its server cannot be reached."""
        from wandb.errors import Error

        try:
            return super().experiment
        except Error as error:
            reason = str(error).splitlines()[0]
            log.warning("wandb: %s; training continues offline, `wandb sync` sends the curves later", reason)
            self._offline = True
            self._wandb_init |= {"mode": "offline"}
            return super().experiment


def log_picture(trainer: pl.Trainer, name: str, picture: np.ndarray, step: int) -> None:
    """Writes a grey or RGB picture `(h, w[, 3])` uint8 as PNG and sends it to the other loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            folder = Path(logger.log_dir).parent / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{name}_{step:06d}.png")
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC"[: picture.ndim])
        elif isinstance(logger, PrivateWandbLogger) and logger.images:
            logger.log_image(name, [picture], step=step)
