"""What a training prints: a progress bar on a terminal, else a line a minute; the time that it will take."""

import sys
from statistics import median
from time import monotonic, perf_counter

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

EVERY_SECONDS = 60.0  # between two lines
MEASURED_SECONDS, MEASURED_BATCHES = 20.0, 20  # after which the duration is estimated
WARM_UP = 2  # batches that the estimate leaves out
DAY = 86400.0
SHORTER = (
    "for a shorter one use a GPU, lower model.train_num_steps, a narrower network "
    "(model.dim, model.n_hiddens) or a smaller dataset.volume_size"
)


def progress() -> pl.Callback:
    """The progress bar, or lines where the output is no terminal (nohup, Slurm, pipes)."""
    return ProgressBar(leave=True) if sys.stdout.isatty() else ProgressLines()


class ProgressBar(RichProgressBar):
    """Lightning's bar without epochs, of which a run has one, and without the version number of the logger."""

    predict_description = "Encoding latents"

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict:
        return {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"


class ProgressLines(pl.Callback):
    """Prints a line at least every `EVERY_SECONDS` and after each validation: batch, rate, time left, last figures."""

    def __init__(self):
        self._shown = self._started = monotonic()
        self._first = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._shown = self._started = monotonic()
        self._first = trainer.fit_loop.epoch_loop.batch_progress.current.processed

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if self._due(trainer) or batch_idx == self._first:
            self._show(trainer, batch_idx + 1)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if self._due(trainer):
            self._print(f"validation: batch {batch_idx + 1} of {trainer.num_val_batches[0]}")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._show(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if self._due(trainer):
            self._print(f"encoding latents: batch {batch_idx + 1} of {trainer.num_predict_batches[0]}")

    def _due(self, trainer: pl.Trainer) -> bool:
        return trainer.is_global_zero and monotonic() - self._shown >= EVERY_SECONDS

    def _show(self, trainer: pl.Trainer, done: int) -> None:
        rate = (done - self._first) / max(monotonic() - self._started, 1e-9)
        total = trainer.num_training_batches
        figures = (f"{name} {float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items()))
        left = f"{duration((total - done) / rate)} left" if rate else "time left unknown"
        speed = f"{rate:.2f} batches/s" if rate >= 1 else f"{1 / rate:.1f} s a batch" if rate else ""
        self._print(", ".join(filter(None, [f"batch {done} of {total}", *figures, speed, left])))

    def _print(self, line: str) -> None:
        self._shown = monotonic()
        print(line, flush=True)


class BatchClock(pl.Callback):
    """Estimates the duration from the first batches, and prints the median time a batch, without the first 10."""

    def __init__(self):
        self.starts, self._announced = [], False

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, batch_idx: int) -> None:
        self.starts.append(perf_counter())
        measured = len(self.starts) - 1
        if self._announced or measured <= WARM_UP:
            return
        if measured >= MEASURED_BATCHES or self.starts[-1] - self.starts[0] >= MEASURED_SECONDS:
            self._announced = True
            if trainer.is_global_zero:
                print(
                    forecast(median(self._gaps(WARM_UP)), trainer.num_training_batches - batch_idx, module.device.type)
                )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero and (gaps := self._gaps(10)):
            print(f"median {1000 * median(gaps):.1f} ms a batch")

    def _gaps(self, left_out: int) -> list[float]:
        return [b - a for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)][left_out:]


def forecast(seconds_a_batch: float, batches: int, device: str) -> str:
    """The line about the time that the training will take; with what to change if it takes a day or more."""
    total, name = seconds_a_batch * batches, "CPU" if device == "cpu" else "GPU"
    left = f"batches left {batches}, {seconds_a_batch:.2g} s each"
    line = f"this training takes about {duration(total)} more on this {name}: {left}"
    return f"{line}; {SHORTER}" if total >= DAY else line


def duration(seconds: float) -> str:
    """A time in the unit that fits: `40 s`, `12 min`, `3.5 h`, `6 days`."""
    for unit, size, limit in (("s", 1.0, 100.0), ("min", 60.0, 5400.0), ("h", 3600.0, 2 * DAY)):
        if seconds < limit:
            digits = 1 if unit == "h" else 0
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / DAY:.0f} days"
