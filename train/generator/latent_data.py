"""The data of the second stage: cached latents in place of volumes."""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from common.errors import UserError, user_errors
from dataset.datamodule import CTDataModule
from ddpm.checkpoint.latent_encoder import make_latent_encoder
from ddpm.latent import LatentEncoder
from ddpm.latent.latent_dataset import LatentDataset, StoredLatents, read_latents, read_scanned
from ddpm.module import DDPMModule
from ddpm.xray_encoder.feature_cache import EncodedDataset
from train.distributed.devices import own_device
from train.generator.encode import encode_missing, measure_reconstruction

PART = 64  # cases whose latents are read at once if memory does not hold all


def load_latent_encoder(source, latent: DictConfig) -> LatentEncoder:
    """The frozen encoder.

    Raises UserError for everything that is missing, data first, in one line with the remedies.
    """
    lacks = list(source.missing())
    try:
        encoder = make_latent_encoder(**latent)
    except UserError as error:
        lacks.append(str(error))
    if lacks:
        lines = lacks if len(lacks) == 1 else [f"({i}) {text}" for i, text in enumerate(lacks, 1)]
        raise UserError("missing: " + "; ".join(lines))
    return encoder


def check_latent_size(
    encoder: LatentEncoder, volume_size: tuple[int, int, int], model: DictConfig
) -> tuple[int, int, int, int]:
    """`(c, d, h, w)` of the latents.

    Raises UserError for a volume size that does not fit the encoder, or a `model.diffusion_*` that differs.
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
    """`CTDataModule` over latents, standardised by the statistics of the training split.

    Missing latents are encoded on the devices of the training, into a sub-folder of the cache that is named by the
    encoder's fingerprint.

    Args:
        keep_gb: latents and X-rays stay in memory up to this size in all; otherwise they are read as needed, so that
            the memory of a process does not grow with the number of cases.

    Attributes:
        reconstruction: quality of a decoded validation case: `psnr_db`, `mae_hu`, `data_range_hu`.
        bytes: memory of the latents.
    """

    def __init__(
        self, cases: CTDataModule, encoder: LatentEncoder, devices: dict, num_nodes: int = 1, keep_gb: float = 4.0
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
        self._cases = cases
        splits = [cases.train, cases.val]
        folder = Path(cases.manifest_path).parent
        (train, val), _ = encode_missing(encoder, splits, folder, devices, cases.num_workers, num_nodes)
        self.reconstruction = measure_reconstruction(encoder, cases.val, val[0], own_device(devices))
        case_bytes = read_latents(val[:1]).nbytes + cases.val[0]["xray"].nbytes
        kept = case_bytes * (len(train) + len(val)) <= keep_gb * 1e9
        raw = read_latents(train) if kept else None
        if not encoder.measured:  # that of model.init_from keeps the statistics that its denoiser is trained to
            encoder.measure(raw if kept else (read_latents(train[i : i + PART]) for i in range(0, len(train), PART)))
        if kept:
            latents = encoder.standardise(raw), encoder.standardise(read_latents(val))
        else:
            latents = StoredLatents(train, encoder), StoredLatents(val, encoder)
        marks = [read_scanned(files) if kept else None for files in (train, val)]
        self.train, self.val = (LatentDataset(*parts) for parts in zip(splits, latents, marks, strict=True))
        self.bytes = sum(part.nbytes for part in latents) if kept else 0

    def content_sha256(self) -> str:
        """Hash of the volumes behind the latents."""
        return self._cases.content_sha256()

    def excerpt(self, count: int = 256) -> Tensor:
        """At most `count` evenly spaced training latents `(m, c, d, h, w)`."""
        latents = self.train.latents
        return latents.index_select(0, torch.linspace(0, len(latents) - 1, min(count, len(latents))).long())

    def prepare_data(self) -> None:
        """Does nothing: the latents are encoded from prepared cases."""


def align_batch(module: DDPMModule, batch: dict, training: bool) -> dict:
    """A batch whose X-rays of unknown pose are aligned as by the module."""
    if "pose_regressor" not in module.trained:
        return batch
    return module.trained["pose_regressor"].align_batch(module.on_before_batch_transfer(batch, 0), training)


@user_errors()
def cache_xray_features(data: LatentData, module: DDPMModule, device: torch.device) -> int:
    """Encodes the X-rays of both splits once, aligned as by the module; returns the bytes of the features.

    Augmented training X-rays are left to the encoder.

    Raises UserError for features outside the range of float16.
    """
    total = 0
    for split in ["val"] if data.train.cases.augments else ["train", "val"]:
        align = partial(align_batch, module, training=split == "train")
        encoder, title = module.trained["xray_encoder"], f"Encoding X-rays ({split})"
        encoded = EncodedDataset(getattr(data, split), encoder, device, title, align)
        setattr(data, split, encoded)
        total += encoded.bytes
    return total
