"""Errors of a training loop as one line."""

import pytest
import pytorch_lightning as pl

from common.errors import UserError
from train.run.trainer import errors_as_lines

KILLED = "a data worker was killed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), KILLED),
        (ConnectionResetError(104, "Connection reset by peer"), KILLED),  # killed while it sent a batch
        (EOFError(), KILLED),
        (OSError(28, "No space left on device"), "free space"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_known_error_becomes_one_line_with_its_remedy(error, expected):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError) as caught, errors_as_lines(trainer, "model.resume=auto continues"):
        raise error
    message = str(caught.value)
    assert expected in message and message.endswith("model.resume=auto continues") and "\n" not in message
    assert ("model.num_workers" in message) == (expected == KILLED)


def test_a_killed_worker_is_found_behind_the_error_of_a_library():
    """torch raises from a signal handler, for example inside `inspect`, which turns every error into a TypeError."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match=KILLED), errors_as_lines(trainer, "resume"):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        except RuntimeError as error:
            raise TypeError("unsupported callable") from error


def test_an_unknown_error_stays_as_it_is():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(TypeError, match="unsupported callable"), errors_as_lines(trainer, "resume"):
        raise TypeError("unsupported callable")
