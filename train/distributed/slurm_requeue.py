"""Slurm by submitit: on the signal before the time limit a run saves its checkpoint and requeues its job.

Slurm sends SIGUSR2 before the time limit, and before a preemption if configured so; submitit then requeues the job
with its arguments. If a preemption sends SIGTERM, Slurm itself requeues the job: the run only saves, because ending by
itself would count as a failure.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

PATIENCE_SECONDS = 60.0  # for the current batch or validation; then the job requeues with its last checkpoint

log = logging.getLogger(__name__)


class Requeue(pl.Callback):
    """After the batch in which any process receives a signal, all processes save; SIGUSR2 then requeues the job.

    Args:
        path: of the checkpoint.
        patience: seconds until the job is requeued without a new checkpoint.
    """

    def __init__(self, path: Path, patience: float = PATIENCE_SECONDS):
        self.path, self.patience = path, patience
        self._requeue: Callable | None = None  # submitit's own handler
        self._terminate: Callable | int | None = None
        self._save, self._leave_next = False, False
        self._timer = threading.Timer(0.0, _requeue_signal)  # repeats the signal; started by the first one

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Replaces submitit's handlers of both signals."""
        found = signal.getsignal(_requeue_signal())
        if callable(found) and threading.current_thread() is threading.main_thread():
            self._requeue = found
            signal.signal(_requeue_signal(), self._handle)
            self._terminate = signal.signal(signal.SIGTERM, self._handle)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Saves after a step of the optimizer, since a checkpoint holds no partial gradients."""
        if self._requeue is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        save = trainer.strategy.reduce_boolean_decision(self._save, all=False)
        leave = trainer.strategy.reduce_boolean_decision(self._leave_next, all=False)
        if save or leave:
            trainer.save_checkpoint(self.path)
            log.warning("stop signal received: saved %s", self.path)
            self._save = False
        if leave:
            self._leave()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Restores submitit's handlers."""
        self._timer.cancel()
        if self._requeue is not None:
            signal.signal(_requeue_signal(), self._requeue)
            signal.signal(signal.SIGTERM, self._terminate)
            self._requeue = None

    def _handle(self, number: int, frame) -> None:
        if number == signal.SIGTERM:
            self._save = True
        elif self._leave_next:  # the second signal: the batch or validation takes longer than `patience`
            self._leave()
        else:
            self._leave_next = True
            self._timer = threading.Timer(self.patience, os.kill, (os.getpid(), _requeue_signal()))
            self._timer.daemon = True
            self._timer.start()

    def _leave(self) -> None:
        """Submitit requeues in its first process and raises SystemExit there; the other processes end here."""
        self._timer.cancel()
        self._requeue(_requeue_signal(), None)
        raise SystemExit(0)


def _requeue_signal() -> int:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
