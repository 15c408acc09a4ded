"""The data of the second stage: cached latents in place of volumes, and the checks before they are made."""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.errors import UserError
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.latent_encoder import make_latent_encoder
from ddpm.latent import LatentEncoder
from ddpm.latent.latent_dataset import LatentDataset, StoredLatents, read_latents
from ddpm.module import DDPMModule
from ddpm.xray_encoder.feature_cache import EncodedDataset
from train.generator.encode import encode_missing, measure_reconstruction, training_device

PART = 64  # cases whose latents are read at once where not all are kept


def load_latent_encoder(source, latent: DictConfig) -> LatentEncoder:
    """The frozen encoder; everything that is missing comes in one line, data first.

    Raises:
        UserError: with the list and how to go on.
    """
    lacks, encoder = list(source.missing()), None
    try:
        encoder = make_latent_encoder(**latent)
    except UserError as error:
        lacks.append(str(error))
    if len(lacks) == 1:
        raise UserError(f"missing: {lacks[0]}")
    if lacks:
        raise UserError("missing: " + "; ".join(f"({i}) {text}" for i, text in enumerate(lacks, 1)))
    return encoder


def check_latent_size(
    encoder: LatentEncoder, volume_size: tuple[int, int, int], model: DictConfig
) -> tuple[int, int, int, int]:
    """`(c, d, h, w)` of the latents, from one encoded sample; sizes that the user typed are compared.

    Raises:
        UserError: showing both where they differ.
    """
    try:
        c, d, h, w = encoder.latent_shape(volume_size)
    except ValueError as error:
        raise UserError(
            f"dataset.volume_size={list(volume_size)} does not suit the latent encoder: {error}"
        ) from error
    found = {"diffusion_num_channels": c, "diffusion_depth_size": d, "diffusion_img_size": h}
    wrong = [
        f"model.{key}={model[key]} but the encoder gives {value}"
        for key, value in found.items()
        if model[key] is not None and int(model[key]) != value
    ]
    if wrong:
        raise UserError(
            f"{'; '.join(wrong)}: latents of {list(volume_size)} voxels are {[c, d, h, w]}; leave these keys out, or "
            "change dataset.volume_size or the encoder"
        )
    return c, d, h, w


class LatentData(CTDataModule):
    """`CTDataModule` over latents: encoded once, whitened by statistics of the training split.

    The latents lie beside the cases in the cache, under the fingerprint of the encoder; those that are missing are
    encoded now, on the devices that will train.

    Args:
        keep_gb: latents and X-rays up to this size in all stay in memory; more are read as they are needed, so that
            no process grows with the number of cases.

    Attributes:
        reconstruction: what the encoder keeps of a validation case: `psnr_db`, `mae_hu`, `data_range_hu`.
    """

    def __init__(
        self,
        cases: CTDataModule,
        encoder: LatentEncoder,
        devices: dict,
        num_nodes: int = 1,
        keep_gb: float = 4.0,
    ):
        super().__init__(
            cases.source,
            cases.window,
            cases.batch_size,
            cases.num_batches,
            cases.num_workers,
            cases.seed,
            cases.cache_dir,
        )
        folder = Path(cases.manifest_path).parent
        splits = [cases.train, cases.val]
        (train, val), _ = encode_missing(encoder, splits, folder, devices, cases.num_workers, num_nodes)
        self.reconstruction = measure_reconstruction(encoder, cases.val, val[0], training_device(devices))
        one = read_latents(val[:1]).nbytes + cases.val[0]["xray"].nbytes
        kept = one * (len(train) + len(val)) <= keep_gb * 1e9
        parts = (read_latents(train[i : i + PART]) for i in range(0, len(train), PART))
        raw = read_latents(train) if kept else None
        if not encoder.measured:  # one of model.init_from keeps the statistics that its denoiser learned with
            encoder.measure(raw if kept else parts)
        if kept:
            self.train = LatentDataset(cases.train, encoder.standardise(raw))
            self.val = LatentDataset(cases.val, encoder.standardise(read_latents(val)))
        else:
            self.train = LatentDataset(cases.train, StoredLatents(train, encoder))
            self.val = LatentDataset(cases.val, StoredLatents(val, encoder))

    @property
    def bytes(self) -> int:
        """Memory of the latents."""
        return sum(d.latents.nbytes for d in (self.train, self.val) if d.in_memory)

    def excerpt(self, count: int = 256) -> Tensor:
        """Training latents `(m, c, d, h, w)`, evenly chosen, at most `count`."""
        latents = self.train.latents
        return latents.index_select(0, torch.linspace(0, len(latents) - 1, min(count, len(latents))).long())

    def prepare_data(self) -> None:
        """Nothing: the cases were prepared before they were encoded."""


def align_batch(module: DDPMModule, batch: dict, training: bool) -> dict:
    """A batch of a data set, its X-rays of unknown pose aligned as the module aligns them."""
    if "pose_regressor" not in module.trained:
        return batch
    return module.trained["pose_regressor"].align_batch(module.on_before_batch_transfer(batch, 0), training)


def cache_xray_features(data: LatentData, module: DDPMModule, device: torch.device) -> int:
    """Encodes the X-rays of both splits once, aligned as the module aligns them.

    Training X-rays that are augmented are left to the encoder.

    Returns:
        Bytes of memory that the features take.
    """
    splits = ["val"] if data.train.cases.augments else ["train", "val"]
    total = 0
    for split in splits:
        align = partial(align_batch, module, training=split == "train")
        encoder, title = module.trained["xray_encoder"], f"Encoding X-rays ({split})"
        encoded = EncodedDataset(getattr(data, split), encoder, device, title, align)
        setattr(data, split, encoded)
        total += encoded.bytes
    return total
