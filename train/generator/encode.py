"""Encodes missing latents with Lightning's predict loop, on one device or many; resumable."""

import json
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from common.autocast import inference_autocast
from common.errors import UserError
from common.files import atomic_path
from dataset.cases.case_dataset import CaseDataset
from ddpm.latent import LatentEncoder
from ddpm.latent.latent_dataset import is_whole, latent_file, latent_folder, scanned_latents, write_latents
from evaluation.metrics.voxel_error import mae_hu, psnr
from train.run.progress import progress
from train.run.trainer import errors_as_lines, silence_lightning


class EncodeLatents(pl.LightningModule):
    """Writes the raw latents of each batch to its files; a batch is one volume, a 2D VAE encodes it in slices."""

    def __init__(self, encoder: LatentEncoder):
        super().__init__()
        self.encoder = encoder

    def predict_step(self, batch: dict, batch_idx: int) -> None:
        with inference_autocast(self.device):
            raw = self.encoder.encode_raw(batch["ct"])
        known = scanned_latents(batch["scanned"], raw.shape[2:])
        for latents, scanned, file, name in zip(raw, known, batch["file"], batch["id"], strict=True):
            if not torch.isfinite(latents).all():
                raise UserError(f"{name}: its latents are not finite; the encoder does not suit these volumes")
            write_latents(latents, Path(file), scanned)


class _Jobs(list):
    """Cases to encode, from `(cases, index, file)`."""

    def __getitem__(self, position: int) -> dict:
        cases, index, file = super().__getitem__(position)
        item = cases[index]
        return {"ct": item["ct"], "scanned": item["scanned"], "id": item["id"], "file": str(file)}


def encode_missing(
    encoder: LatentEncoder,
    splits: list[CaseDataset],
    folder: str | Path,
    devices: dict,
    num_workers: int = 0,
    num_nodes: int = 1,
) -> tuple[list[list[Path]], int]:
    """Encodes the cases without latents on disk; each process of `devices` encodes its share.

    Args:
        folder: of the prepared cases; the latents are in a sub-folder of it.
        devices: `accelerator` and `devices` of the Trainer.

    Returns:
        The files of each split in the order of its cases, and the number of newly encoded ones.

    Raises UserError if memory or disk is full, after an interruption, or for a volume that the encoder cannot take.
    """
    home = latent_folder(folder, encoder)
    files = [[latent_file(home, path, cases.window) for path in cases.paths] for cases in splits]
    found: dict[Path, tuple[CaseDataset, int, Path]] = {}
    for cases, names in zip(splits, files, strict=True):
        for index, file in enumerate(names):
            if file not in found and not is_whole(file):
                found[file] = (cases, index, file)
    if found:
        _predict(encoder, list(found.values()), devices, num_workers, num_nodes)
    return files, len(found)


def _predict(encoder: LatentEncoder, jobs: list, devices: dict, num_workers: int, num_nodes: int) -> None:
    silence_lightning()
    trainer = pl.Trainer(
        accelerator=devices["accelerator"],
        devices=devices["devices"],
        num_nodes=num_nodes,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        callbacks=[progress()],
    )
    chance = torch.Generator().manual_seed(0)  # without it, the loader draws from the global generator
    loader = DataLoader(_Jobs(jobs), num_workers=num_workers, generator=chance)
    try:
        with errors_as_lines(trainer, "the same command continues with the missing cases"):
            try:
                trainer.predict(EncodeLatents(encoder), loader, return_predictions=False)
                trainer.strategy.barrier("latents")  # every process reads the latents of all
            except torch.OutOfMemoryError as error:
                remedy = f"lower model.latent.slices_per_batch ({str(error).splitlines()[0]})"
                raise UserError(f"out of memory while encoding: {remedy}") from error
            except OSError as error:
                remedy = "free space or set dataset.cache_dir"
                raise UserError(f"latents cannot be written ({error}); {remedy}") from error
    finally:
        encoder.cpu()


def measure_reconstruction(
    encoder: LatentEncoder, cases: CaseDataset, file: Path, device: torch.device
) -> dict[str, float]:
    """PSNR in dB over the window and MAE in HU of one decoded case where it was scanned, measured once and stored.

    Args:
        cases: the first case is measured, with a slicewise encoder 8 of its slices.
        file: latents of that case; the result is stored beside it.
    """
    stored, window = file.with_suffix(".json"), cases.window
    if stored.is_file():
        return json.loads(stored.read_text())
    encoder.to(device)
    case = cases[0]
    with inference_autocast(device):
        pair = encoder.reconstruct(case["ct"][None].to(device))
    encoder.cpu()
    true, decoded = (window.denormalise(volume[:, 0].float().cpu()) for volume in pair)
    scanned = case["scanned"][0]
    scanned = scanned[encoder.measured_slices(len(scanned))]
    result = {
        "psnr_db": round(float(psnr(decoded, true, window.width, scanned).mean()), 2),
        "mae_hu": round(float(mae_hu(decoded, true, scanned).mean()), 1),
        "data_range_hu": window.width,
    }
    with atomic_path(stored) as temporary:
        temporary.write_text(json.dumps(result))
    return result


def describe(reconstruction: dict[str, float]) -> str:
    """The result of `measure_reconstruction` as a phrase."""
    return (
        f"the encoder reconstructs a case at {reconstruction['psnr_db']:.1f} dB PSNR (range "
        f"{reconstruction['data_range_hu']:g} HU), MAE {reconstruction['mae_hu']:.0f} HU"
    )
