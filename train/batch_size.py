"""`model.batch_size=auto`: as many samples a batch as the free memory holds by the estimate, settled once a run."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dataset.datamodule import CTDataModule
from dataset.errors import UserError
from train.preflight import MemoryNeed
from train.processes import say
from train.runs import config_file

AUTO = "auto"


def keep_choice(model: DictConfig, folder: Path, several: bool) -> None:
    """A run that is resumed takes the number that it began with, however much memory is free now.

    Raises:
        UserError: `auto` on several devices, which could find different numbers.
    """
    path = config_file(folder)
    if model.batch_size == AUTO and several:
        raise UserError("model.batch_size=auto: for one device; give a number where several train")
    if model.batch_size == AUTO and path.is_file():
        model.batch_size = OmegaConf.load(path).model.batch_size


def before_choice(model: DictConfig) -> int:
    """What a data module is made with before its own size in memory, which the choice depends on, is known."""
    return 1 if model.batch_size == AUTO else model.batch_size


def settle(model: DictConfig, data: CTDataModule, need: MemoryNeed) -> None:
    """Puts the number into the config, which is saved with the run, and into the data module.

    Raises:
        UserError: where the free memory is not known.
    """
    if model.batch_size != AUTO:
        return
    model.batch_size = data.batch_size = min(need.largest_batch(), len(data.train))
    say(f"model.batch_size=auto: {model.batch_size} samples a batch")
