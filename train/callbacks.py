"""What watches a training: pictures of reconstructions, and sampled volumes with their scores in HU."""

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dataset.geometry import display_slice
from dataset.intensity import Window
from train.loggers import log_picture


def compare_slices(volumes: list[Tensor]) -> np.ndarray:
    """Middle slices of volumes `(D, H, W)` in [-1, 1] as a grey picture: one column a volume, one row a plane."""
    rows = []
    for plane in ("axial", "coronal", "sagittal"):
        slices = [display_slice(volume.float().cpu(), plane) for volume in volumes]
        rows.append(torch.cat(slices, dim=1))
    width = max(row.shape[1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[1]), value=-1.0) for row in rows]
    return ((torch.cat(rows).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


class ReconstructionPictures(pl.Callback):
    """Truth beside reconstruction of the first validation volume, every so many batches."""

    def __init__(self, every: int):
        self.every = every

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook."""
        if (batch_idx + 1) % self.every == 0 and trainer.is_global_zero:
            volume = trainer.datamodule.val[0]["ct"].unsqueeze(0).to(module.device)
            module.eval()
            reconstruction = module.model(volume).volume
            module.train()
            log_picture(trainer, "reconstruction", compare_slices([volume[0, 0], reconstruction[0, 0]]), batch_idx + 1)


class SampleAndScore(pl.Callback):
    """Volumes sampled for validation X-rays with the averaged weights: PSNR, SSIM and MAE in HU, and a picture.

    Args:
        cases: the data set with true volumes (`ct` in [-1, 1]), of which the first `count` are sampled.
        metrics: name to function of (generated, true) `(D, H, W)` in HU.
    """

    def __init__(
        self,
        every: int,
        cases,
        window: Window,
        metrics: dict[str, Callable[[Tensor, Tensor], float]],
        count: int = 4,
        sampler: dict | None = None,
        seed: int = 0,
    ):
        self.every, self.cases, self.window, self.metrics = every, cases, window, metrics
        self.count, self.sampler, self.seed = min(count, len(cases)), sampler, seed

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook."""
        if (batch_idx + 1) % self.every or not trainer.is_global_zero:
            return
        items = [self.cases[i] for i in range(self.count)]
        with module.averaged_weights():
            pipeline = module.pipeline()
            if self.sampler:
                pipeline.set_sampler(**self.sampler)
            generated = pipeline(
                torch.stack([item["xray"] for item in items]),
                torch.stack([item["pose"] for item in items]),
                seed=self.seed,
                ids=[item["id"] for item in items],
                extent=torch.stack([item["spacing"] * torch.tensor(item["ct"].shape[1:]) for item in items]),
            ).volumes[:, 0]
        true = [self.window.denormalise(item["ct"][0]) for item in items]
        for name, metric in self.metrics.items():
            score = sum(metric(a, b) for a, b in zip(generated, true, strict=True)) / self.count
            module.log(f"sample/{name}", float(score), rank_zero_only=True)
        pair = [self.window.normalise(true[0]), self.window.normalise(generated[0])]
        log_picture(trainer, "sample", compare_slices(pair), batch_idx + 1)
