"""The LightningModule of the lung network."""

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.lung_network import LEVELS_MM, LUNG, WITH_RECESS, LungNetwork, save_network
from ddpm.checkpoint.write import complete


class LungModule(pl.LightningModule):
    """Cross-entropy and soft Dice of the lungs that are at least `LEVELS_MM` deep, for each side.

    Args:
        optimizer: function of the parameters.
        num_batches: length of training, for the cosine after `warmup_batches`.
    """

    def __init__(self, network: LungNetwork, optimizer: Callable, num_batches: int, warmup_batches: int = 0):
        super().__init__()
        self.network, self.optimizer = network, optimizer
        self.num_batches, self.warmup_batches = num_batches, warmup_batches

    def configure_optimizers(self) -> dict:
        """Linear warm-up, then cosine to zero."""
        optimizer = self.optimizer(self.parameters())
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup_batches, self.num_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """The loss of a batch; raises FloatingPointError if it is not finite."""
        loss = lung_loss(self.network(batch["xray"]).float(), masks_of(batch["depth"]))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in batch {batch_idx}; lower model.train_lr")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["xray"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Logs `val/loss` and `val/dice`, of the mask of both lungs."""
        logits, masks = self.network(batch["xray"]).float(), masks_of(batch["depth"])
        found, true = (part[:, :, LUNG].amax(dim=1) for part in ((logits > 0).float(), masks))
        sizes = found.sum() + true.sum()
        options = {"batch_size": len(found), "sync_dist": True}
        self.log("val/loss", lung_loss(logits, masks), **options)
        self.log("val/dice", 2 * (found * true).sum() / sizes.clamp_min(1.0), prog_bar=True, **options)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds the header by which a run finds its checkpoints."""
        checkpoint["header"] = complete({"stage": "lungs", "components": {}, "protocol": {}})

    def save(self, path: Path, notes: dict) -> None:
        """Writes the network; `notes` on its training are plain JSON."""
        save_network(self.network, path, notes)


def masks_of(depth: Float[Tensor, "b channel h w"]) -> Float[Tensor, "b side level h w"]:
    """1 where the lung is at least as deep as each level, above its dome or in all (`WITH_RECESS`)."""
    above, recess = depth.chunk(2, dim=1)
    return torch.stack(
        [above + recess * deep >= mm for mm, deep in zip(LEVELS_MM, WITH_RECESS, strict=True)], dim=2
    ).float()


def lung_loss(logits: Float[Tensor, "b side level h w"], masks: Float[Tensor, "b side level h w"]) -> Tensor:
    """Cross-entropy plus soft Dice loss over the batch, so that X-rays without lungs count (Milletari et al. 2016)."""
    probability, axes = logits.sigmoid(), (0, 3, 4)
    overlap = 2 * (probability * masks).sum(dim=axes) + 1.0
    dice = overlap / ((probability + masks).sum(dim=axes) + 1.0)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1.0 - dice).mean()
