"""Training a classifier: labelled cases with their balance, the LightningModule, and the best weights kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.errors import UserError
from ddpm.checkpoint.write import complete, component, export_classifier
from evaluation.statistics.roc import auc

INPUTS = {"ct": "ct", "generated": "ct", "xray": "xray"}  # what a classifier sees: its key in a batch
BALANCES = ("weight", "sampling", "none")


class Labelled(Dataset):
    """The cases of a data set whose label is known, the rarer class repeated where it is to be sampled as often.

    Args:
        cases: with `rows` that have a `label` of 0, 1 or -1; takes an index, or an index and a step.
        balanced: whether to repeat cases of the rarer class, in turn, until both are equally many.
        name: of the part, for the refusal.

    Raises:
        UserError: where a class is absent.
    """

    def __init__(self, cases: Dataset, balanced: bool = False, name: str = "train"):
        labels = cases.rows["label"].to_numpy()
        groups = [np.flatnonzero(labels == value) for value in (0, 1)]
        for value, group in enumerate(groups):
            if not len(group):
                raise UserError(
                    f"label: no case of class {value} in the part {name} ({len(labels)} cases, "
                    f"{(labels == -1).sum()} of unknown label); a classifier needs both classes in every part"
                )
        self.cases, self.unknown = cases, int((labels == -1).sum())
        longest = max(len(group) for group in groups)
        order = [np.resize(group, longest) for group in groups] if balanced else groups
        self.order = np.sort(np.concatenate(order)).tolist()
        self.rows = cases.rows.iloc[self.order].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        index, step = item if isinstance(item, tuple) else (item, -1)
        return self.cases[(self.order[index], step)] if step >= 0 else self.cases[self.order[index]]


def positive_weight(labels: np.ndarray, balance: str) -> float:
    """Weight of a positive case in the loss: negatives for each positive where `balance` is `weight`, else 1.

    Raises:
        ValueError: another word for the balance.
    """
    if balance not in BALANCES:
        raise ValueError(f"model.balance={balance}: choose {', '.join(BALANCES)}")
    return float((labels == 0).sum() / (labels == 1).sum()) if balance == "weight" else 1.0


class ClassifierModule(pl.LightningModule):
    """Binary cross-entropy on one logit, selected by the validation AUC.

    Args:
        classifier: `volume or X-ray -> logits (b,)`, a ModelMixin.
        key: of the batch that it is shown: `ct` or `xray`.
        optimizer: takes parameters.
        num_batches: length of training, for the cosine after `warmup_batches`.
        positive_weight: of a positive case in the loss.
        protocol: plain JSON that goes into checkpoints.
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
    ):
        super().__init__()
        self.classifier, self.key, self.optimizer = classifier, key, optimizer
        self.num_batches, self.warmup_batches = num_batches, warmup_batches
        self.positive_weight, self.protocol = float(positive_weight), protocol or {}
        self._seen: list[tuple[Tensor, Tensor]] = []

    def configure_optimizers(self) -> dict:
        """Linear warm-up, then cosine to zero."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        schedule = get_cosine_schedule_with_warmup(optimizer, self.warmup_batches, self.num_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = logits.new_tensor(self.positive_weight)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), pos_weight=weight)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        """Lightning's hook.

        Raises:
            FloatingPointError: where the loss is not finite.
        """
        loss = self._loss(self.classifier(batch[self.key]).float(), batch["label"])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} in batch {batch_idx}; lower model.train_lr")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Collects scores; every process sees all validation cases."""
        self._seen.append((self.classifier(batch[self.key]).float().cpu(), batch["label"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs `val/auc` and `val/loss` over all cases at once."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
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
    """Writes `best.safetensors` at each validation with a higher AUC; ends training when none was for a while.

    Args:
        folder: of the run.
        patience: validations without a higher AUC after which training ends; None never ends it.
    """

    def __init__(self, folder: Path, patience: int | None):
        self.path, self.patience = Path(folder) / "checkpoints" / "best.safetensors", patience
        self.best, self.step, self.waited = -1.0, 0, 0

    def on_validation_end(self, trainer: pl.Trainer, module: ClassifierModule) -> None:
        """Lightning's hook."""
        area = float(trainer.callback_metrics["val/auc"])
        if area > self.best:
            self.best, self.step, self.waited = area, int(trainer.global_step), 0
            if trainer.is_global_zero:
                chosen = {"val_auc": round(area, 6), "batches": self.step}
                export_classifier(module.classifier, self.path, {**module.protocol, "chosen": chosen})
        else:
            self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict:
        """What a resumed run goes on with."""
        return {"best": self.best, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict) -> None:
        """Lightning's hook."""
        self.best, self.step, self.waited = state_dict["best"], state_dict["step"], state_dict["waited"]
