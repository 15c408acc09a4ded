"""A signal during accumulated gradients: the run goes on to the step of the optimizer, saves and ends."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from train.distributed.signals import EndCleanly, Interrupted


class Line(pl.LightningModule):
    """One weight; sends a signal to its process in a batch."""

    def __init__(self, signal_in: int):
        super().__init__()
        self.weight, self.signal_in = torch.nn.Parameter(torch.ones(1)), signal_in

    def training_step(self, batch, batch_idx):
        if batch_idx == self.signal_in:
            os.kill(os.getpid(), signal.SIGTERM)
        return (self.weight * batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("signal_in", [0, 1, 2, 3, 5])
def test_the_checkpoint_is_of_the_next_step(tmp_path, accumulate, signal_in):
    path = tmp_path / "last.ckpt"
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=accumulate, callbacks=[EndCleanly(path, signal.SIGTERM)],
    )  # fmt: skip
    with pytest.raises(Interrupted, match="SIGTERM"):
        trainer.fit(Line(signal_in), DataLoader(torch.ones(12, 1), batch_size=1))
    done = torch.load(path, weights_only=True)["global_step"]
    assert done == signal_in // accumulate + 1
