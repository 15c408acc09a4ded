"""Row `volume`: one X-ray file to one NIfTI with the default sampler, against 1000 steps of the ancestor's network.

The peer's time is 1000 times its measured forward: its sampler, encoder, decoder and files are given to it for free.
Ours is all that the command does once its libraries are loaded: read the X-ray, encode, denoise, decode, write.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.speed.unet import forward_ancestor, forward_ancestor_autocast, make_ours, wake
from benchmarks.speed.workload import Row, Work

EXTENT = (320.0, 256.0, 352.0)


def make_pipeline(setting: dict, device: str):
    """The generating pipeline with random weights, latents of the sizes of the row and our VQ-GAN behind them."""
    from diffusers import DDPMScheduler

    from ddpm.conditioning.lift import RayLift
    from ddpm.latent import VQGANLatents
    from ddpm.pipeline import XrayToCTPipeline
    from ddpm.xray_encoder import CNNXrayEncoder

    channels, *grid = setting["latent"]
    vqgan = {**setting["networks"]["vqgan"], "embedding_dim": channels}
    latent_encoder = VQGANLatents(vqgan)
    latent_encoder.measured.fill_(True)
    xray_encoder = CNNXrayEncoder(embedding_dim=setting["condition"])
    lift = RayLift(xray_encoder.feature_channels, setting["networks"]["unet"]["condition"]["channels"])
    protocol = {
        "dataset": "random",
        "window": [-1000.0, 1000.0],
        "volume_size": [side * vqgan["downsample"] for side in grid],
        "extent": list(EXTENT),
        "xray_size": [setting["xray"], setting["xray"]],
    }
    scheduler = DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    parts = {
        "denoiser": make_ours(setting | {"batch": 1}, device),
        "xray_encoder": wake(xray_encoder),
        "lift": lift,
        "prior": None,
        "pose_regressor": None,
    }
    return XrayToCTPipeline(**parts, latent_encoder=latent_encoder, scheduler=scheduler, protocol=protocol).to(device)


def ours(setting: dict, device: str) -> Work:
    """X-ray file to NIfTI, GIF, PNG and settings, by the function behind `evaluation/generate.py`."""
    from PIL import Image

    from evaluation.generation.write_volumes import generate

    holder = tempfile.TemporaryDirectory()
    folder = Path(holder.name)
    side = setting["xray"]
    picture = np.random.default_rng(0).integers(0, 2**16, (side, side), dtype=np.uint16)
    Image.fromarray(picture).save(folder / "film.png")
    pipeline = make_pipeline(setting, device)

    def step() -> None:
        generate(pipeline, [folder / "film.png"], Path(holder.name) / "out")

    facts = {
        "precision": "as the command",
        "sampler": pipeline.sampler,
        "steps": pipeline.steps,
        "volume_size": list(pipeline.volume_size),
    }
    return Work(step, facts)


def _thousand(work: Work) -> Work:
    return dataclasses.replace(work, facts={**work.facts, "note": "1000 times one measured forward"}, floor=None)


def ancestor(setting: dict, device: str) -> Work:
    """One forward of its network, float32."""
    return _thousand(forward_ancestor({**setting, "batch": 1}, device))


def ancestor_autocast(setting: dict, device: str) -> Work:
    """One forward of its network under bfloat16 autocast."""
    return _thousand(forward_ancestor_autocast({**setting, "batch": 1}, device))


ROWS = [
    Row(
        "volume",
        "one volume, X-ray file to NIfTI",
        {
            "ours": ours,
            "video-diffusion-pytorch Unet3D, 1000 steps": ancestor,
            "video-diffusion-pytorch Unet3D, 1000 steps, bfloat16 autocast": ancestor_autocast,
        },
        times=1000,
    )
]
