"""SIGTERM and Ctrl-C: the run saves a checkpoint that it can resume from, and ends within seconds."""

import signal
import threading
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl

PATIENCE_SECONDS = 7.0  # for the current step; the run ends within 10 s


class Interrupted(Exception):
    """A signal ended the training; the message names it."""


class EndCleanly(pl.Callback):
    """On a signal, saves a checkpoint and ends the run. It must be the first callback.

    Within a step of the optimizer, which may take several batches, weights and gradients are partly updated: the run
    waits for its end, but after `PATIENCE_SECONDS` ends with its last checkpoint. Between steps (loading, validation,
    sampling, or the atomic writing of a checkpoint) it saves and stops at once. All processes stop after one step.

    Args:
        path: of the checkpoint.
        signals: that end the run.
    """

    def __init__(self, path: Path, *signals: int):
        self.path, self.signals = path, signals
        self.received: int | None = None  # the signal
        self.saved = False
        self._computing, self._ending, self._alone, self._before = False, False, True, {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Installs the handlers, also over Lightning's, which would end without a checkpoint."""
        self._computing, self._ending, self._alone = False, False, trainer.world_size == 1
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._before[number] = signal.signal(number, self._handle)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_idx: int) -> None:
        self._computing = True

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # a checkpoint holds no partial gradients
            return
        received = self.received is not None
        if trainer.strategy.reduce_boolean_decision(received, all=False) if not self._alone else received:
            self._end()
            trainer.save_checkpoint(self.path)
            self.saved = True
            raise Interrupted(self._cause())
        self._computing = False

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Saves a run that was stopped between two batches."""
        self._end()
        whole = trainer.fit_loop.epoch_loop.batch_progress.current.processed % trainer.accumulate_grad_batches == 0
        between = self._alone and not self._computing  # several processes save together, after a batch only
        if isinstance(exception, Interrupted) and not self.saved and between and whole:
            trainer.save_checkpoint(self.path)
            self.saved = True

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Restores the handlers."""
        self._end()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            raise Interrupted(self._cause())
        if self.received is not None or self._ending:
            return
        self.received = number
        if self._alone and not self._computing:
            raise Interrupted(self._cause())
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def _end(self) -> None:
        """Stops the timer and ignores further signals."""
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._ending = True

    def _cause(self) -> str:
        return signal.Signals(self.received).name if self.received else "another process was interrupted"
