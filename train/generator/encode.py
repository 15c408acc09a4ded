"""Encoding the latents that are missing, over Lightning's predict loop: on one device or many, resumable."""

import json
import logging
import os
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.autocast import inference_autocast
from common.errors import UserError, worker_killed
from dataset.cases.case_dataset import CaseDataset
from dataset.imaging.hu_window import Window
from ddpm.latent import LatentEncoder
from ddpm.latent.latent_dataset import is_whole, latent_file, latent_folder, write_latents
from evaluation.metrics.voxel_error import mae_hu, psnr
from train.distributed.processes import watched
from train.run.trainer import Progress


class EncodeLatents(pl.LightningModule):
    """Raw latents of each batch, written to its files. Volumes go one by one, a 2D VAE takes them in slices."""

    def __init__(self, encoder: LatentEncoder):
        super().__init__()
        self.encoder = encoder

    def predict_step(self, batch: dict, batch_idx: int) -> None:
        """Lightning's hook: each process writes its own share."""
        with inference_autocast(self.device):
            raw = self.encoder.encode_raw(batch["ct"])
        for latents, file, name in zip(raw, batch["file"], batch["id"], strict=True):
            if not torch.isfinite(latents).all():
                raise UserError(f"{name}: its latents are not finite; the encoder does not suit these volumes")
            write_latents(latents, Path(file))


class _Bar(Progress):
    @property
    def predict_description(self) -> str:
        return "Encoding latents"


class _Jobs(Dataset):
    def __init__(self, jobs: list[tuple[CaseDataset, int, Path]]):
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, position: int) -> dict:
        cases, index, file = self.jobs[position]
        item = cases[index]
        return {"ct": item["ct"], "id": item["id"], "file": str(file)}


def encode_missing(
    encoder: LatentEncoder,
    splits: list[CaseDataset],
    folder: str | Path,
    devices: dict,
    num_workers: int = 0,
    num_nodes: int = 1,
) -> tuple[list[list[Path]], int]:
    """Encodes what is not on disk yet.

    Args:
        folder: of the prepared cases; the latents lie in a sub-folder of it.
        devices: `accelerator` and `devices` of the Trainer; each process takes its share of the cases.

    Returns:
        The files of each split in the order of its cases, and how many were encoded now.

    Raises:
        UserError: out of memory or disk, stopped by hand, or a volume that the encoder cannot take.
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
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    trainer = pl.Trainer(
        accelerator=devices["accelerator"],
        devices=devices["devices"],
        num_nodes=num_nodes,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[_Bar(leave=True)],
    )
    loader = DataLoader(
        _Jobs(jobs),
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),  # without one, the global generator is moved on
    )
    try:
        with watched(trainer):
            trainer.predict(EncodeLatents(encoder), loader, return_predictions=False)
            trainer.strategy.barrier("latents")  # the share of the others is read next
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory while encoding: lower model.latent.slices_per_batch ({str(error).splitlines()[0]})"
        ) from error
    except OSError as error:
        raise UserError(f"latents cannot be written ({error}); free space or set dataset.cache_dir") from error
    except RuntimeError as error:
        if not worker_killed(error):
            raise
        raise UserError(
            f"a data worker was killed ({str(error).splitlines()[0]}), most likely for want of memory: set "
            "model.num_workers lower; the same command goes on with the cases that are missing"
        ) from error
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, SystemExit) and error.code != 1:  # a requeue; Lightning turns Ctrl-C into an exit with 1
            raise
        raise UserError("interrupted; the same command goes on with the cases that are missing") from error
    finally:
        encoder.cpu()


def training_device(devices: dict) -> torch.device:
    """Where this process computes."""
    gpu = devices["accelerator"] in ("gpu", "cuda")
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu")


def measure_reconstruction(
    encoder: LatentEncoder, cases: CaseDataset, file: Path, device: torch.device
) -> dict[str, float]:
    """What of a volume survives the encoder: PSNR over the window in dB and MAE in HU of one case, measured once.

    Args:
        cases: the first case is taken; of a slicewise encoder 8 of its slices.
        file: of that case's latents; the figures are kept beside it.
    """
    kept = file.with_suffix(".json")
    if kept.is_file():
        return json.loads(kept.read_text())
    window: Window = cases.window
    encoder.to(device)
    with inference_autocast(device):
        pair = encoder.reconstruct(cases[0]["ct"][None].to(device))
    encoder.cpu()
    true, decoded = (_hu(volume, window) for volume in pair)
    figures = {
        "psnr_db": round(float(psnr(decoded, true, window.width).mean()), 2),
        "mae_hu": round(float(mae_hu(decoded, true).mean()), 1),
        "data_range_hu": window.width,
    }
    beside = kept.with_suffix(f".{os.getpid()}.partial")
    beside.write_text(json.dumps(figures))
    os.replace(beside, kept)
    return figures


def describe(reconstruction: dict[str, float]) -> str:
    """A phrase with the figures of `measure_reconstruction`."""
    return (
        f"the encoder reconstructs a case at {reconstruction['psnr_db']:.1f} dB PSNR (range "
        f"{reconstruction['data_range_hu']:g} HU), MAE {reconstruction['mae_hu']:.0f} HU"
    )


def _hu(volume: Tensor, window: Window) -> Tensor:
    return window.denormalise(volume[:, 0].float().cpu())
