"""Callbacks that log reconstructions, and sampled volumes with their scores in HU."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dataset.imaging.geometry import PLANES, display_slice
from dataset.imaging.hu_window import Window
from evaluation.metrics.ssim import ssim
from evaluation.metrics.voxel_error import mae_hu, psnr
from train.run.loggers import log_picture

SAMPLED = 4  # validation cases


def compare_slices(volumes: list[Tensor]) -> np.ndarray:
    """Middle slices of volumes `(D, H, W)` in [-1, 1] as a grey picture: a column per volume, a row per plane."""
    rows = [torch.cat([display_slice(v.float().cpu(), plane) for v in volumes], dim=1) for plane in PLANES]
    width = max(row.shape[1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[1]), value=-1.0) for row in rows]
    return ((torch.cat(rows).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


class ReconstructionPictures(pl.Callback):
    """Logs the first validation volume beside its reconstruction every `every` batches; None = never."""

    def __init__(self, every: int | None):
        self.every = every

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if self.every and (batch_idx + 1) % self.every == 0 and (trainer.is_global_zero or module.sharded):
            volume = trainer.datamodule.val[0]["ct"].unsqueeze(0).to(module.device)
            module.eval()
            reconstruction = module.model(volume).volume
            module.train()
            if trainer.is_global_zero:  # other processes only contribute their sharded weights
                picture = compare_slices([volume[0, 0], reconstruction[0, 0]])
                log_picture(trainer, "reconstruction", picture, batch_idx + 1)


class SampleAndScore(pl.Callback):
    """Samples volumes for validation X-rays with the averaged weights; logs PSNR, SSIM, MAE in HU and a picture.

    Args:
        every: batches between two samplings.
        sampler: `scheduler`, `guidance_scale` and options of the sampler.
        steps: of the sampler.
        window: of the model; its width is the data range of PSNR and SSIM.

    Attributes:
        cases: data set with true volumes, set before training; its first `SAMPLED` cases are sampled.
    """

    def __init__(self, every: int, sampler: dict, steps: int, window: Window):
        self.every, self.sampler, self.window, self.cases = every, {**sampler, "steps": steps}, window, None

    def pipeline(self, module: pl.LightningModule):
        """The generating pipeline with this sampler; raises ValueError for an unknown sampler."""
        return module.pipeline().set_sampler(**self.sampler)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        if (batch_idx + 1) % self.every or not (trainer.is_global_zero or module.sharded):
            return
        items = [self.cases[i] for i in range(min(SAMPLED, len(self.cases)))]
        with module.ema.swapped_in(module.device):
            generated = self.pipeline(module)(
                torch.stack([item["xray"] for item in items]),
                torch.stack([item["pose"] for item in items]),
                seed=0,
                ids=[item["id"] for item in items],
                extent=torch.stack([item["spacing"] * torch.tensor(item["ct"].shape[1:]) for item in items]),
                allow_any_picture=True,
            ).volumes[:, 0]
        if not trainer.is_global_zero:  # other processes only contribute their sharded weights
            return
        true, window = torch.stack([self.window.denormalise(item["ct"][0]) for item in items]), self.window
        scores = [
            {
                "psnr": psnr(one, truth, window.width, mask),
                "ssim": ssim(one, truth, window.width, low=window.low, mask=mask),
                "mae_hu": mae_hu(one, truth, mask),
            }
            for one, truth, mask in zip(generated, true, [item["scanned"][0] for item in items], strict=True)
        ]
        for name in scores[0]:
            module.log(f"sample/{name}", torch.stack([s[name] for s in scores]).nanmean(), rank_zero_only=True)
        pair = [window.normalise(true[0]), window.normalise(generated[0])]
        log_picture(trainer, "sample", compare_slices(pair), batch_idx + 1)
