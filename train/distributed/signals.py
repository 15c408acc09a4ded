"""SIGTERM and Ctrl-C: the run saves where it can be gone on from, and ends within seconds."""

import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl

PATIENCE_SECONDS = 7.0  # for the batch that is being computed; an end takes at most 10
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """A signal ended the training; the message says whether a checkpoint was written."""


class EndCleanly(pl.Callback):
    """Turns signals into a checkpoint and an end. It must be the first callback.

    Within a batch, weights and optimizers are half changed: the signal waits for its end, and no longer than
    `patience`: then the run ends with the checkpoint that it has. Between batches (loading, validation, sampled
    volumes, or the writing of a checkpoint, which is atomic) the state is whole: the run stops there and is saved.
    Several processes stop behind the same batch, whichever of them received the signal.

    Args:
        path: of the checkpoint.
        signals: what ends a run.
        patience: seconds.
    """

    def __init__(self, path: Path, signals: Sequence[int] = SIGNALS, patience: float = PATIENCE_SECONDS):
        self.path, self.signals, self.patience = path, tuple(signals), patience
        self.received: int | None = None  # the signal
        self.saved = False
        self._computing, self._ending, self._alone, self._before = False, False, True, {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Takes the signals, also from Lightning, whose own handler would end without a checkpoint."""
        self._computing, self._ending, self._alone = False, False, trainer.world_size == 1
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._before[number] = signal.signal(number, self._hear)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Lightning's hook."""
        self._computing = True

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook, after the step of the optimizer."""
        received = self.received is not None
        if trainer.strategy.reduce_boolean_decision(received, all=False) if not self._alone else received:
            self._quiet()
            if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:  # gradients half gathered cannot be saved
                trainer.save_checkpoint(self.path)
                self.saved = True
            raise Interrupted(self._said())
        self._computing = False

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Saves what was stopped between two batches, while everything is still there."""
        self._quiet()
        whole = trainer.fit_loop.epoch_loop.batch_progress.current.processed % trainer.accumulate_grad_batches == 0
        between = self._alone and not self._computing  # many save behind a batch alone: all of them take part
        if isinstance(exception, Interrupted) and not self.saved and between and whole:
            trainer.save_checkpoint(self.path)
            self.saved = True

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._quiet()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            raise Interrupted(self._said())
        if self.received is not None or self._ending:  # already on the way
            return
        self.received = number
        if self._alone and not self._computing:
            raise Interrupted(self._said())
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._hear)
        signal.setitimer(signal.ITIMER_REAL, self.patience)

    def _quiet(self) -> None:
        """From here on nothing interrupts."""
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._ending = True

    def _said(self) -> str:
        return signal.Signals(self.received).name if self.received else "another process was interrupted"
