"""Cost of one case for the estimates in docs/results/: CPU seconds of one thread, operations, bytes.

`python benchmarks/scale/rates.py --ct <a whole chest at full resolution>.nii.gz [--size 128 128 128] [--repeats 1]`
prints JSON. CPU seconds do not depend on other processes. The SDXL VAE has random weights and encodes one slice, whose
cost is multiplied by the number of slices.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import torch  # noqa: E402
from diffusers import AutoencoderKL  # noqa: E402

from benchmarks.speed.roofline import count  # noqa: E402
from benchmarks.timing import timed  # noqa: E402
from common.autocast import inference_autocast  # noqa: E402
from dataset.cases.store import prepare_cases  # noqa: E402
from dataset.sources.folder import FolderSource  # noqa: E402
from dataset.sources.settings import Files, Geometry, Splits, Xrays  # noqa: E402
from ddpm.denoiser.unet import UNet3D  # noqa: E402
from ddpm.latent.vae_loading import SDXL_VAE  # noqa: E402
from vq_gan_3d import VQGAN3D  # noqa: E402


def processor_seconds(work: Callable[[], object], repeats: int) -> float:
    """Minimum CPU seconds over the repeats."""
    return round(min(timed(work)[1] for _ in range(repeats)), 3)


def giga_operations(work: Callable[[], object]) -> float:
    """GFLOP of one call, on any device, meta included."""
    return round(count(work)["gflop"], 1)


def prepared(ct: Path, size: tuple[int, int, int], repeats: int) -> dict:
    """Cost of preparing one case from a CT file: read, render, resample, write."""
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "in"
        scans.mkdir()
        shutil.copy(ct, scans)
        source, files = FolderSource(Files(scans), Geometry(size), Xrays((224, 224)), Splits(cache_dir=folder)), []

        def build() -> None:
            for file in files:
                file.unlink()
            files[:] = prepare_cases(source, folder, workers=0)

        seconds = processor_seconds(build, repeats)
        return {"cpu_s": seconds, "bytes": files[0].stat().st_size}


def counted(size: tuple[int, int, int]) -> dict:
    """Operations of a case through each network, and of a training step at batch 1, on torch's meta device."""
    d, h, w = size
    with torch.device("meta"):
        vqgan, vae = VQGAN3D(n_hiddens=32, downsample=4, patch=2), AutoencoderKL(**SDXL_VAE)
        volume, slice_ = torch.zeros(1, 1, *size), torch.zeros(1, 3, h, w)
        found = {
            "vqgan_encode_gflop": giga_operations(lambda: vqgan.encode(volume)),
            "sdxl_encode_gflop": giga_operations(lambda: vae.encode(slice_)) * d,
        }
        networks = torch.nn.Sequential(vqgan.encoder, vqgan.decoder)
        folded = torch.zeros(1, 8, *(n // 2 for n in size))
        found["vqgan_step_gflop"] = giga_operations(partial(_step, networks, folded))
        for name, shape in (("vqgan", (8, d // 4, h // 4, w // 4)), ("sdxl", (4, d, h // 8, w // 8))):
            unet = UNet3D(shape[0], dim=64, dim_mults=(1, 2, 4), prior={})
            inputs = torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long), torch.zeros(1, 512)
            given = {"features": torch.zeros(1, 16, *shape[1:]), "prior": torch.zeros(1, *shape)}
            found[f"unet_{name}_step_gflop"] = giga_operations(partial(_step, unet, *inputs, **given))
            found[f"latents_{name}_bytes"] = 4 * torch.Size(shape).numel()
    return found


def _step(network, *inputs, **given) -> None:
    network(*inputs, **given).sum().backward()


def encoded(size: tuple[int, int, int], repeats: int) -> dict:
    """Seconds of a case through both latent encoders."""
    vqgan, vae = VQGAN3D(n_hiddens=32, downsample=4, patch=2).eval(), AutoencoderKL(**SDXL_VAE).eval()
    volume, slice_ = torch.zeros(1, 1, *size), torch.zeros(1, 3, *size[1:])
    with torch.inference_mode(), inference_autocast(torch.device("cpu")):
        return {
            "vqgan_encode_cpu_s": processor_seconds(lambda: vqgan.encode(volume), repeats),
            "sdxl_encode_cpu_s": size[0] * processor_seconds(lambda: vae.encode(slice_), repeats),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(given.size)
    found = {"size": size, "prepare": prepared(given.ct, size, given.repeats), **counted(size)}
    print(json.dumps({**found, **encoded(size, given.repeats)}, indent=1))
