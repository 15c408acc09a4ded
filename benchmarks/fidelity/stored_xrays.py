"""Phantoms whose X-rays were rendered before, for machines without the renderer."""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from common.checked_tensors import save_tensors
from common.errors import UserError
from common.files import atomic_path
from dataset.sources.phantom import PhantomSource


class StoredXrayPhantoms(PhantomSource):
    """A phantom source with the X-rays of a file of `write_xrays`, at nominal poses; UserError with `pose_noise`.

    The file does not state how they were rendered: with the settings of `xray` (photons, attenuation map), as
    `render_xrays.py` does for those of the benchmark.
    """

    def __init__(self, xray_file: str | Path, *groups, **options):
        super().__init__(*groups, **options)
        self.xray_file = Path(xray_file)
        if self.pose_noise:
            raise UserError(f"xray_file={xray_file}: its X-rays have nominal poses; leave out dataset.pose_noise=true")

    def missing(self) -> list[str]:
        return [] if self.xray_file.is_file() else [f"xray_file={self.xray_file}: no such file"]

    def xrays(self, row, phantom, poses) -> Float[Tensor, "v h w"]:
        return read_xray_row(self.xray_file, self.index(row), (self.xray.views, *self.xray.size))

    def forward_model(self) -> dict:
        made = super().forward_model()
        noise = "" if self.drr.photons is None else f"{made['noise']}, then "
        return {**made, "noise": f"{noise}rounded to 8 bits"}

    def describe(self) -> dict:
        return {**super().describe(), "xrays": "8 bit, from a file"}


def stored_xrays(file: str | Path | None) -> list[str]:
    """Config overrides that read the X-rays of phantoms from a file; none without a file."""
    target = f"{StoredXrayPhantoms.__module__}.{StoredXrayPhantoms.__name__}"
    return [f"dataset.source._target_={target}", f"+dataset.source.xray_file={file}"] if file else []


def write_xrays(path: str | Path, indices: list[int], xrays: Float[Tensor, "n v h w"]) -> None:
    """Writes X-rays in [0, 1] of phantoms, with 8 bits, by their index in the population, for `StoredXrayPhantoms`."""
    with atomic_path(Path(path)) as temporary:
        pixels = (xrays * 255.0).round().to(torch.uint8)
        save_tensors({"index": torch.tensor(indices), "xray": pixels.contiguous()}, temporary)


def read_xray_row(path: Path, index: int, size: tuple[int, int, int]) -> Float[Tensor, "v h w"]:
    """The X-rays of one phantom from a file of `write_xrays`; UserError if the file lacks it in this size."""
    with safe_open(path, framework="pt") as file:
        found = (file.get_tensor("index") == index).nonzero()
        pixels = file.get_slice("xray")
        if not len(found) or tuple(pixels.get_shape()[1:]) != size:
            held = f"{pixels.get_shape()[0]} X-rays of {pixels.get_shape()[1:]}"
            raise UserError(f"xray_file={path}: phantom {index} in {list(size)} is not among its {held}")
        return pixels[int(found[0])].float() / 255.0
