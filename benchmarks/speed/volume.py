"""Row `volume`: one X-ray file to one NIfTI with the default sampler, against 1000 steps of X-ray2CTPA's network.

The baseline's time is 1000 times its measured forward, without its sampler, encoder, decoder and files. Ours is the
whole command after loading its libraries: read the X-ray, encode, denoise, decode, write.
"""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.speed.unet import fill_zero_layers, forward, make_ours
from benchmarks.speed.workload import Row, Work

EXTENT = (320.0, 256.0, 352.0)


def ours(setting: dict, device: str) -> Work:
    """X-ray file to NIfTI, PNG and settings, by the function behind `evaluation/generate.py`."""
    from diffusers import DDPMScheduler
    from PIL import Image

    from ddpm.conditioning.lift import RayLift
    from ddpm.latent import VQGANLatents
    from ddpm.pipeline import XrayToCTPipeline
    from ddpm.xray_encoder import CNNXrayEncoder
    from evaluation.generation.write_volumes import generate

    holder = tempfile.TemporaryDirectory()
    folder = Path(holder.name)
    channels, *grid = setting["latent"]
    vqgan, side = {**setting["networks"]["vqgan"], "embedding_dim": channels}, setting["xray"]
    picture = np.random.default_rng(0).integers(0, 2**16, (side, side), dtype=np.uint16)
    Image.fromarray(picture).save(folder / "xray.png")
    latent_encoder = VQGANLatents(vqgan)
    latent_encoder.measured.fill_(True)
    xray_encoder = CNNXrayEncoder(embedding_dim=setting["condition"])
    pipeline = XrayToCTPipeline(
        denoiser=make_ours(setting | {"batch": 1}, device),
        xray_encoder=fill_zero_layers(xray_encoder),
        lift=RayLift(xray_encoder.feature_channels, setting["networks"]["unet"]["condition"]["channels"]),
        prior=None,
        pose_regressor=None,
        consistency=None,
        decoder_residual=None,
        training_spread=None,
        latent_encoder=latent_encoder,
        scheduler=DDPMScheduler(prediction_type="v_prediction", clip_sample=False),
        protocol={
            "dataset": "random",
            "window": [-1000.0, 1000.0],
            "volume_size": [n * vqgan["downsample"] for n in grid],
            "extent": list(EXTENT),
            "xray_size": [side, side],
        },
    ).to(device)

    def step() -> None:
        generate(pipeline, [folder / "xray.png"], folder / "out", overwrite=True, allow_any_picture=True)

    facts = {"precision": "as the command", "sampler": pipeline.describe()["sampler"], "steps": pipeline.steps}
    facts["volume_size"] = list(pipeline.volume_size)
    return Work(step, facts, keeps=holder)


def xray2ctpa(setting: dict, device: str, bfloat16: bool = False) -> Work:
    """One forward of its network; `Row.times` multiplies the time by 1000."""
    work = forward({**setting, "batch": 1}, device, "xray2ctpa", bfloat16)
    return replace(work, facts={**work.facts, "note": "1000 times one measured forward"}, roofline=None)


PEER = "video-diffusion-pytorch Unet3D, 1000 steps"
SIDES = {"ours": ours, PEER: xray2ctpa, f"{PEER}, bfloat16 autocast": partial(xray2ctpa, bfloat16=True)}
ROWS = [Row("volume", "one volume, X-ray file to NIfTI", SIDES, times=1000)]
