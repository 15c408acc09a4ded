"""Under a scheduler: the signal before the end saves the run and puts its job back into the queue (submitit).

Slurm sends SIGUSR2 ahead of the time limit, and on preemption where it is told to; submitit answers by requeueing the
job with the arguments it had. Where preemption comes as SIGTERM, Slurm requeues by itself: then saving is all there is
to do, and an end of our own would count as a failure.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

PATIENCE_SECONDS = 60.0  # for the end of the batch, or of a validation; then the job goes with the checkpoint it has

log = logging.getLogger(__name__)


def scheduled() -> bool:
    """Whether submitit runs this process as a job."""
    return "SUBMITIT_EXECUTOR" in os.environ


class Requeue(pl.Callback):
    """Saves behind the present batch, in all processes alike, whichever was told; then the job is requeued or goes on.

    Args:
        path: of the checkpoint.
        patience: seconds until the job is requeued without a new checkpoint.
    """

    def __init__(self, path: Path, patience: float = PATIENCE_SECONDS):
        self.path, self.patience = path, patience
        self._requeue: Callable | None = None  # submitit's own handler
        self._terminate: Callable | int | None = None
        self._save, self._go = False, False
        self._again = threading.Timer(0.0, _requeue_signal)  # of the signal to itself; started when it is told

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Takes both signals, which submitit has before."""
        found = signal.getsignal(_requeue_signal())
        if callable(found) and threading.current_thread() is threading.main_thread():
            self._requeue = found
            signal.signal(_requeue_signal(), self._hear)
            self._terminate = signal.signal(signal.SIGTERM, self._hear)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook, after the step of the optimizer; gradients half gathered are not saved."""
        if self._requeue is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        save = trainer.strategy.reduce_boolean_decision(self._save, all=False)
        go = trainer.strategy.reduce_boolean_decision(self._go, all=False)
        if save or go:
            trainer.save_checkpoint(self.path)
            log.warning("told to stop: saved %s", self.path)
            self._save = False
        if go:
            self._leave()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._again.cancel()
        if self._requeue is not None:
            signal.signal(_requeue_signal(), self._requeue)
            signal.signal(signal.SIGTERM, self._terminate)
            self._requeue = None

    def _hear(self, number: int, frame) -> None:
        if number == signal.SIGTERM:
            self._save = True
        elif self._go:  # a second time: a validation takes long, and the job is about to be killed
            self._leave()
        else:
            self._go = True
            self._again = threading.Timer(self.patience, os.kill, (os.getpid(), _requeue_signal()))
            self._again.daemon = True
            self._again.start()

    def _leave(self) -> None:
        """Submitit requeues from its first process and leaves by SystemExit; the others have nothing left to do."""
        self._again.cancel()
        self._requeue(_requeue_signal(), None)
        raise SystemExit(0)


def _requeue_signal() -> int:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
