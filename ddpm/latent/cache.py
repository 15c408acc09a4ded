"""Latents of a data set, encoded once, kept on disk and in memory; raw, so that the statistics may come later."""

import os
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.latent.contract import LatentEncoder
from ddpm.precision import inference_autocast


@torch.no_grad()
def raw_latents(
    encoder: LatentEncoder,
    cases: Dataset,
    names: list[str],
    folder: str | Path,
    device: torch.device,
    description: str,
) -> Tensor:
    """Raw latents `(n, c, d, h, w)` of `cases[i]["ct"]`, float32; read from disk, or encoded and written.

    Args:
        names: one a case, unique, and changed with its content (the name of its cache file, and the window).
        folder: a sub-folder named by the encoder's fingerprint is made in it.
    """
    folder = Path(folder) / f"latents-{encoder.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.safetensors" for name in names]
    todo = [i for i, file in enumerate(files) if not _is_whole(file)]
    encoder.to(device)
    for i in track(todo, description=description, disable=not todo):
        with inference_autocast(device):
            raw = encoder.encode_raw(cases[i]["ct"].unsqueeze(0).to(device))[0].float().cpu().contiguous()
        beside = files[i].with_suffix(".partial")
        save_file({"raw": raw}, beside)
        os.replace(beside, files[i])
    return torch.stack([load_file(file)["raw"] for file in files])


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as content:  # checks the header against the length of the file
            return "raw" in content.keys()  # noqa: SIM118 (no dict)
    except (SafetensorError, FileNotFoundError):
        return False


class LatentDataset(Dataset):
    """Items of a case data set with whitened `latent` in place of `ct`.

    Takes the same keys: an index, or (index, step).
    """

    def __init__(self, cases: Dataset, latents: Tensor):
        self.latents = latents
        self.items = [cases.condition(i) for i in range(len(latents))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, step = key if isinstance(key, tuple) else (key, -1)
        return {**self.items[index], "latent": self.latents[index], "index": index, "step": step}
