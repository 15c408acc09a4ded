"""What watches a training: pictures of reconstructions, and sampled volumes with their scores in HU."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from dataset.imaging.geometry import PLANES, display_slice
from dataset.imaging.hu_window import Window
from evaluation.metrics.ssim import ssim
from evaluation.metrics.voxel_error import mae_hu, psnr
from train.run.loggers import log_picture


def compare_slices(volumes: list[Tensor]) -> np.ndarray:
    """Middle slices of volumes `(D, H, W)` in [-1, 1] as a grey picture: one column a volume, one row a plane."""
    rows = []
    for plane in PLANES:
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
        if (batch_idx + 1) % self.every == 0 and (trainer.is_global_zero or module.sharded):
            volume = trainer.datamodule.val[0]["ct"].unsqueeze(0).to(module.device)
            module.eval()
            reconstruction = module.model(volume).volume
            module.train()
            if not trainer.is_global_zero:  # its share of the weights was needed
                return
            log_picture(trainer, "reconstruction", compare_slices([volume[0, 0], reconstruction[0, 0]]), batch_idx + 1)


class SampleAndScore(pl.Callback):
    """Volumes sampled for validation X-rays with the averaged weights: PSNR, SSIM and MAE in HU, and a picture.

    Args:
        sampler: `scheduler`, `guidance_scale` and options of the sampler.
        steps: of the sampler.
        window: of the model; its width is the data range of PSNR and SSIM.
        count: how many of `cases`, a data set with true volumes that is set before training.
    """

    def __init__(self, every: int, sampler: dict, steps: int, window: Window, count: int = 4, seed: int = 0):
        self.every, self.sampler, self.window = every, {**sampler, "steps": steps}, window
        self.count, self.seed, self.cases = count, seed, None

    def pipeline(self, module: pl.LightningModule):
        """The generating pipeline with this callback's sampler.

        Raises:
            ValueError: for an unknown sampler.
        """
        return module.pipeline().set_sampler(**self.sampler)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        """Lightning's hook."""
        if (batch_idx + 1) % self.every or not (trainer.is_global_zero or module.sharded):
            return
        items = [self.cases[i] for i in range(min(self.count, len(self.cases)))]
        with module.ema.swapped_in(module.device):
            generated = self.pipeline(module)(
                torch.stack([item["xray"] for item in items]),
                torch.stack([item["pose"] for item in items]),
                seed=self.seed,
                ids=[item["id"] for item in items],
                extent=torch.stack([item["spacing"] * torch.tensor(item["ct"].shape[1:]) for item in items]),
            ).volumes[:, 0]
        if not trainer.is_global_zero:  # its share of the weights was needed
            return
        true = torch.stack([self.window.denormalise(item["ct"][0]) for item in items])
        module.log("sample/psnr", psnr(generated, true, self.window.width).mean(), rank_zero_only=True)
        similarity = ssim(generated, true, self.window.width, low=self.window.low).mean()
        module.log("sample/ssim", similarity, rank_zero_only=True)
        module.log("sample/mae_hu", mae_hu(generated, true).mean(), rank_zero_only=True)
        pair = [self.window.normalise(true[0]), self.window.normalise(generated[0])]
        log_picture(trainer, "sample", compare_slices(pair), batch_idx + 1)
