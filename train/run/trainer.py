"""Assembling a Lightning run: trainer, loggers, checkpoints, progress; and errors that end it as one line."""

import logging
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar

from common.autocast import bfloat16_supported
from common.errors import UserError, user_message, worker_killed
from train.distributed.devices import many
from train.distributed.optimizer_layout import AlignMoments
from train.distributed.processes import say, watched
from train.distributed.signals import EndCleanly, Interrupted
from train.distributed.slurm_requeue import Requeue, scheduled
from train.run.checkpoint_io import LAST, AtomicCheckpointIO
from train.run.loggers import make_loggers
from train.run.memory import out_of_memory, peak_memory
from vq_gan_3d.module import TrainingStopped


@dataclass(frozen=True)
class Intervals:
    """Length of a training and what happens how often, in batches; `accumulate` batches make an optimizer step."""

    batches: int
    validate_every: int
    checkpoint_every: int
    accumulate: int = 1


def make_trainer(
    cfg: DictConfig, folder: Path, devices: dict, intervals: Intervals, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """A Trainer of one epoch; `cfg` has `trainer` and `logger`, and `last.ckpt` is saved at the given intervals."""
    trainer, accumulate = cfg.trainer, intervals.accumulate
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    # a checkpoint holds no accumulated gradients, so it waits for the optimizer step
    checkpoint_every = -(-intervals.checkpoint_every // accumulate) * accumulate
    if many(devices, trainer.num_nodes) and trainer.strategy == "auto":
        devices = {**devices, "strategy": "ddp_find_unused_parameters_true"}
    precision = trainer.precision
    if devices["accelerator"] == "cpu" and "bf16" in str(precision) and not bfloat16_supported(torch.device("cpu")):
        say(f"model.precision={precision}: this CPU only emulates bfloat16, float32 is faster and is used")
        precision = "32-true"
    return instantiate(
        trainer,
        **devices,
        precision=precision,
        sync_batchnorm=trainer.sync_batchnorm and devices["accelerator"] != "cpu",  # torch has it for GPUs alone
        max_epochs=1,
        use_distributed_sampler=False,  # our sampler knows its rank
        check_val_every_n_epoch=None,  # validation counts batches
        val_check_interval=min(intervals.validate_every, intervals.batches),
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
        logger=make_loggers(folder, **cfg.logger),
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        callbacks=[
            *_signals(folder / "checkpoints" / LAST),
            AlignMoments(),
            Progress(leave=True),
            *callbacks,
            BatchClock(),
            SaveLast(folder, checkpoint_every),
        ],
    )


def _signals(path: Path) -> list[pl.Callback]:
    """What answers signals: a job of a scheduler is requeued, any other run ends."""
    if not scheduled():
        return [EndCleanly(path)]
    return [EndCleanly(path, signals=[signal.SIGINT]), Requeue(path)]


class Progress(RichProgressBar):
    """The bar without the version of the logger, which says nothing here."""

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict:
        """What stands beside the bar."""
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}


class BatchClock(pl.Callback):
    """Says at the end how long a batch took: the median from start to start, the first ones left out."""

    def __init__(self, skip: int = 10):
        self.skip, self.starts = skip, []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Lightning's hook."""
        self.starts.append(perf_counter())

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning's hook."""
        gaps = [b - a for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)][self.skip :]
        if gaps and trainer.is_global_zero:
            print(f"median {1000 * median(gaps):.1f} ms a batch")


class SaveLast(pl.Callback):
    """Writes `checkpoints/last.ckpt` every so many batches and at the end.

    Lightning's ModelCheckpoint counts steps of all optimizers, two a batch for the VQ-GAN: this one counts batches.
    """

    def __init__(self, folder: Path, every: int):
        self.path, self.every = folder / "checkpoints" / LAST, every

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook, after the step of the optimizer."""
        if (batch_idx + 1) % self.every == 0 or batch_idx + 1 == trainer.num_training_batches:
            trainer.save_checkpoint(self.path)


def fit(trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule, checkpoint: Path | None):
    """Trains, from a checkpoint if one is given, and says what memory it took.

    Raises:
        UserError: where training stopped for a reason that has a name.
    """
    try:
        with watched(trainer):
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except (TrainingStopped, FloatingPointError) as error:
        raise UserError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(error, trainer.strategy.root_device)) from error
    except (Interrupted, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # a requeue; Lightning turns Ctrl-C into an exit with 1
            raise
        raise UserError(_how_to_go_on(trainer, error)) from error
    except UserError as error:  # one of a data worker comes with the worker's traceback
        raise UserError(user_message(str(error))) from error
    except OSError as error:
        raise UserError(
            f"the run cannot write or read ({error}); free space, or mend what is named; model.resume=auto goes on "
            "from the last checkpoint"
        ) from error
    except (RuntimeError, KeyError) as error:
        if worker_killed(error):
            raise UserError(
                f"a data worker was killed ({str(error).splitlines()[0]}), most likely for want of memory: set "
                "model.num_workers lower (0 loads in the training process) or lower model.batch_size; "
                "model.resume=auto goes on from the last checkpoint"
            ) from error
        if checkpoint is None or "state_dict" not in str(error):
            raise
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} does not fit the model of this config, resume with its own: {what}") from error
    if skipped := getattr(module, "skipped", None):
        say(f"{len(skipped)} batches skipped, their loss was not finite: {'; '.join(skipped)}")
    say(f"peak memory {peak_memory()}")


def _how_to_go_on(trainer: pl.Trainer, error: BaseException) -> str:
    guard = next(callback for callback in trainer.callbacks if isinstance(callback, EndCleanly))
    word = f" by {error}" if isinstance(error, Interrupted) else ""
    saved = f"saved {guard.path}" if guard.saved else "the last checkpoint stays as it is"
    return f"interrupted{word}; {saved}; model.resume=auto goes on from there"
