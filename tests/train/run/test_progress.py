"""Lines where the output is no terminal, the forecast of the duration, and the first checkpoint after a minute."""

from types import SimpleNamespace

import pytest
import torch

from train.run import progress, trainer
from train.run.progress import BatchClock, ProgressLines, duration, forecast
from train.run.trainer import SaveLast


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module, name in ((progress, "monotonic"), (progress, "perf_counter"), (trainer, "monotonic")):
        monkeypatch.setattr(module, name, clock)
    return clock


def fake_trainer(batches: int = 1000, accumulate: int = 1):
    current = SimpleNamespace(processed=0, ready=0)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=current)))
    saved = []
    made = SimpleNamespace(is_global_zero=True, num_training_batches=batches, num_val_batches=[9], fit_loop=loop,
                           callback_metrics={"loss": torch.tensor(0.25)}, world_size=1, saved=saved,
                           accumulate_grad_batches=accumulate)  # fmt: skip
    made.save_checkpoint = lambda path: saved.append(path)
    return made


def test_a_line_at_least_every_minute_with_figures_rate_and_time_left(clock, capsys):
    lines, run = ProgressLines(), fake_trainer()
    lines.on_train_start(run, None)
    for batch in range(100):
        clock.now += 2.0
        lines.on_train_batch_end(run, None, None, None, batch)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 + 200 // 60
    assert said[0] == "batch 1 of 1000, loss 0.25, 2.0 s a batch, 33 min left"
    for _ in range(40):  # a long validation
        clock.now += 2.0
        lines.on_validation_batch_end(run, None, None, None, 3)
    assert capsys.readouterr().out == "validation: batch 4 of 9\n"
    run.callback_metrics["val/loss"] = torch.tensor(0.5)
    lines.on_validation_end(run, None)
    assert "loss 0.25, val/loss 0.5" in capsys.readouterr().out


def test_the_duration_is_said_from_the_first_batches(clock, capsys):
    clock_callback, run, module = BatchClock(), fake_trainer(100_000), SimpleNamespace(device=torch.device("cpu"))
    for batch in range(30):
        clock_callback.on_train_batch_start(run, module, None, batch)
        clock.now += 5.2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "this training takes about 6 days more on this CPU: batches left 99996, 5.2 s each; for a shorter one"
    )
    assert "GPU" not in forecast(1.0, 100, "cpu")
    assert (
        forecast(0.1, 600, "cuda") == "this training takes about 60 s more on this GPU: batches left 600, 0.1 s each"
    )


def test_durations_have_the_unit_that_fits():
    assert [duration(s) for s in (40, 720, 12600, 6 * 86400)] == ["40 s", "12 min", "3.5 h", "6 days"]


def test_the_first_checkpoint_is_written_after_a_minute(clock, tmp_path):
    run, save = fake_trainer(accumulate=2), SaveLast(tmp_path / "last.ckpt", 500)
    save.on_train_start(run, None)
    for batch in range(100):
        clock.now += 1.0
        save.on_train_batch_end(run, None, None, None, batch)
    assert len(run.saved) == 1
    (tmp_path / "last.ckpt").touch()
    resumed = SaveLast(tmp_path / "last.ckpt", 500)
    clock.now += 100.0
    resumed.on_train_batch_end(run, None, None, None, 101)
    assert len(run.saved) == 1
