"""The Lightning Trainer of a run: loggers, signals, checkpoints, progress; and its errors as one line."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from common.autocast import bfloat16_supported
from common.errors import UserError, user_message, worker_killed
from train.distributed.devices import many
from train.distributed.optimizer_layout import AlignMoments
from train.distributed.processes import REMEDY, print_once, watched
from train.distributed.signals import EndCleanly, Interrupted
from train.distributed.slurm_requeue import Requeue
from train.run.checkpoint_io import LAST, AtomicCheckpointIO
from train.run.loggers import curves_line, make_loggers
from train.run.memory import out_of_memory, peak_memory
from train.run.progress import BatchClock, progress
from vq_gan_3d.module import TrainingStopped

FIRST_SECONDS = 60.0  # after which the first checkpoint is written, however rare the others are


@dataclass(frozen=True)
class Intervals:
    """Length of a training, and its intervals, in batches; an optimizer step takes `accumulate` batches."""

    batches: int
    validate_every: int | None  # None = no validation
    checkpoint_every: int
    accumulate: int = 1


def make_trainer(
    cfg: DictConfig, folder: Path, devices: dict, intervals: Intervals, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """A Trainer of one epoch from the nodes `trainer` and `logger`, which saves `last.ckpt`."""
    trainer, accumulate, last = cfg.trainer, intervals.accumulate, folder / "checkpoints" / LAST
    silence_lightning()
    loggers = make_loggers(folder, **cfg.logger)
    print_once(f"run: {folder}\n{curves_line(folder, loggers)}")
    # a checkpoint holds no accumulated gradients, so it waits for the optimizer step
    checkpoint_every = -(-intervals.checkpoint_every // accumulate) * accumulate
    if many(devices, trainer.num_nodes) and trainer.strategy == "auto":
        devices = {**devices, "strategy": "ddp_find_unused_parameters_true"}
    precision = trainer.precision
    device = torch.device("cuda" if torch.cuda.is_available() and devices["accelerator"] != "cpu" else "cpu")
    if "bf16" in str(precision) and not bfloat16_supported(device):
        print_once(f"model.precision={precision}: this {device.type} only emulates bfloat16; training uses float32")
        precision = "32-true"
    signals = [EndCleanly(last, signal.SIGINT, signal.SIGTERM)]
    if "SUBMITIT_EXECUTOR" in os.environ:  # a job of submitit, which requeues itself
        signals = [EndCleanly(last, signal.SIGINT), Requeue(last)]
    return instantiate(
        trainer,
        **devices,
        precision=precision,
        sync_batchnorm=trainer.sync_batchnorm and devices["accelerator"] != "cpu",  # torch has it for GPUs alone
        max_epochs=1,
        use_distributed_sampler=False,  # StepBatchSampler knows its rank
        check_val_every_n_epoch=None,  # validation counts batches
        val_check_interval=min(intervals.validate_every or intervals.batches, intervals.batches),
        limit_val_batches=0.0 if intervals.validate_every is None else 1.0,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=sys.stdout.isatty(),
        callbacks=[
            *signals,
            AlignMoments(),
            ConstantBuffers(),
            progress(),
            *callbacks,
            BatchClock(),
            SaveLast(last, checkpoint_every),
        ],
    )


def silence_lightning() -> None:
    """Hides Lightning's tips and warnings."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")


class ConstantBuffers(pl.Callback):
    """Ends DDP's broadcast of all buffers before every forward pass; DDP has made them equal once, at its start.

    The others change alike in all processes (the codebook, counters), except the statistics of a batch norm that is
    not synchronised, as on a CPU: with one the broadcast stays.
    """

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        wrapped, norms = trainer.strategy.model, [part for part in module.modules() if isinstance(part, _BatchNorm)]
        if isinstance(wrapped, DistributedDataParallel) and all(isinstance(norm, SyncBatchNorm) for norm in norms):
            wrapped.broadcast_buffers = False


class SaveLast(pl.Callback):
    """Writes the checkpoint `path` every `every` batches and after the last one; the first one after `FIRST_SECONDS`.

    Lightning's ModelCheckpoint counts optimizer steps instead, two per batch for the VQ-GAN.
    """

    def __init__(self, path: Path, every: int):
        self.path, self.every, self.started, self.saved = path, every, monotonic(), path.is_file()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        due = (batch_idx + 1) % self.every == 0 or batch_idx + 1 == trainer.num_training_batches
        if due or self._first_due(trainer, batch_idx):
            trainer.save_checkpoint(self.path)
            self.saved = True

    def _first_due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether there is no checkpoint after `FIRST_SECONDS`, on any process, and no partial gradients."""
        if self.saved or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return False
        late = monotonic() - self.started >= FIRST_SECONDS
        return late if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(late, all=False)


def fit(trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule, checkpoint: Path | None):
    """Trains, from a checkpoint if given; prints skipped batches and peak memory. Known errors become UserError."""
    with errors_as_lines(trainer, REMEDY):
        try:
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        except (TrainingStopped, FloatingPointError) as error:
            raise UserError(str(error)) from error
        except (RuntimeError, KeyError) as error:
            if checkpoint is None or "state_dict" not in str(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{checkpoint} does not fit the model of this config: {reason}") from error
    if skipped := getattr(module, "skipped", None):
        print_once(f"{len(skipped)} batches skipped, their loss was not finite: {'; '.join(skipped)}")
    print_once(f"peak memory {peak_memory()}")


@contextmanager
def errors_as_lines(trainer: pl.Trainer, remedy: str) -> Iterator[None]:
    """Raises known errors of a Trainer's loop as UserError; `remedy` says how the work continues."""
    try:
        with watched(trainer):
            yield
    except UserError as error:  # that of a data worker contains a traceback
        raise UserError(user_message(str(error))) from error
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(error, trainer.strategy.root_device)) from error
    except (Interrupted, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # a requeue; Lightning turns Ctrl-C into an exit with 1
            raise
        cause = f" by {error}" if isinstance(error, Interrupted) else ""
        for callback in trainer.callbacks:
            if isinstance(callback, EndCleanly):
                kept = callback.path.is_file()
                unsaved = "the last checkpoint is unchanged" if kept else "no checkpoint was written yet"
                cause += f"; saved {callback.path}" if callback.saved else f"; {unsaved}"
                remedy = remedy if kept else "the same command begins again"
        raise UserError(f"interrupted{cause}; {remedy}") from error
    except Exception as error:
        if killed := worker_killed(error):
            raise UserError(_killed(killed, remedy)) from error
        if not isinstance(error, OSError):
            raise
        raise UserError(f"the run cannot write or read ({error}); free space or correct the file; {remedy}") from error


def _killed(error: BaseException, remedy: str) -> str:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"a data worker was killed ({reason}), probably for lack of memory: lower model.num_workers (0 loads in the "
        f"training process) or model.batch_size; {remedy}"
    )
