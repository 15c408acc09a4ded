"""The LightningModule of a classifier, and the callback that keeps its best weights."""

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor, nn

from common.seeding import generator
from ddpm.checkpoint.read import read
from ddpm.checkpoint.write import complete, component, export_classifier
from evaluation.statistics.roc import auc

DIGITS = 6  # of a validation AUC


class ClassifierModule(pl.LightningModule):
    """Binary cross-entropy on one logit, selected by the validation AUC.

    Args:
        classifier: `volume or X-ray -> logits (b,)`, a ModelMixin.
        key: of its input in a batch, `ct` or `xray`.
        optimizer: function of the parameters.
        num_batches: length of training, for the cosine after `warmup_batches`.
        positive_weight: of a positive case in the loss.
        protocol: plain JSON, written into checkpoints.
        seed: of dropout.
    """

    def __init__(
        self,
        classifier: nn.Module,
        key: str,
        optimizer: Callable,
        num_batches: int,
        warmup_batches: int = 0,
        positive_weight: float = 1.0,
        protocol: dict | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.classifier, self.key, self.optimizer = classifier, key, optimizer
        self.num_batches, self.warmup_batches = num_batches, warmup_batches
        self.positive_weight, self.protocol, self.seed = float(positive_weight), protocol or {}, seed
        self._scores: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> dict:
        """Linear warm-up, then cosine to zero."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup_batches, self.num_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = logits.new_tensor(self.positive_weight)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weight)

    def on_train_batch_start(self, batch: dict, batch_idx: int) -> None:
        """Seeds dropout by seed, step and process, so that a resumed run draws the same."""
        torch.manual_seed(generator((self.seed, int(batch["step"][0]), self.global_rank)).initial_seed())

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """The loss of a batch; raises FloatingPointError if the loss is not finite."""
        loss = self._loss(self.classifier(batch[self.key]).float(), batch["label"])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in batch {batch_idx}; lower model.train_lr")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Collects scores; every process sees all validation cases."""
        self._scores.append((self.classifier(batch[self.key]).float().cpu(), batch["label"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs `val/auc` and `val/loss` over all cases at once."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._scores, strict=True))
        self._scores.clear()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("a validation score is not finite; lower model.train_lr")
        self.log("val/loss", self._loss(logits, labels), rank_zero_only=True)
        area = auc(logits.double().numpy(), labels.numpy())
        self.log("val/auc", torch.tensor(area, dtype=torch.float32, device=self.device), prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds the header that `ddpm.checkpoint.load.load_classifier` reads."""
        components = {"classifier": component(self.classifier, "classifier.")}
        header = {"stage": "classifier", "components": components, "protocol": self.protocol}
        checkpoint["header"] = complete(header)


class KeepBest(pl.Callback):
    """Writes `best.safetensors` at each validation with a higher AUC; ends training after `patience` without one.

    Args:
        folder: of the run.
        patience: number of validations; None = training does not end early.
    """

    def __init__(self, folder: Path, patience: int | None):
        self.path, self.patience = Path(folder) / "checkpoints" / "best.safetensors", patience
        self.best, self.step, self.waited = -1.0, 0, 0

    def on_validation_end(self, trainer: pl.Trainer, module: ClassifierModule) -> None:
        area = round(float(trainer.callback_metrics["val/auc"]), DIGITS)
        if area > self.best:
            self.best, self.step, self.waited = area, int(trainer.global_step), 0
            if trainer.is_global_zero:
                chosen = {"val_auc": area, "batches": self.step}
                export_classifier(module.classifier, self.path, {**module.protocol, "chosen": chosen})
        else:
            self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict:
        """State for a resumed run."""
        return {"best": self.best, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restores a state, or that of `best.safetensors` where a validation after the checkpoint was better."""
        self.best, self.step, self.waited = round(state_dict["best"], DIGITS), state_dict["step"], state_dict["waited"]
        chosen = read(self.path).protocol["chosen"] if self.path.is_file() else {"val_auc": -1.0}
        if chosen["val_auc"] > self.best:
            self.best, self.step, self.waited = chosen["val_auc"], chosen["batches"], 0
