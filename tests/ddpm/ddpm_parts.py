"""Small parts of the second stage for its tests."""

from functools import partial
from pathlib import Path

import torch

from dataset.imaging.geometry import make_pose
from ddpm.checkpoint.write import component
from ddpm.conditioning.lift import RayLift
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.objective import NoiseObjective
from ddpm.latent.vqgan import VQGANLatents
from ddpm.module import DDPMModule, GeneratorParts
from ddpm.pipeline import XrayToCTPipeline
from ddpm.xray_encoder import CNNXrayEncoder
from vq_gan_3d import VQGAN3D
from vq_gan_3d.optimisation import Optimisation

VOLUME = (32, 32, 32)
EXTENT = (320.0, 256.0, 352.0)
PROTOCOL = {"dataset": "test", "window": [-1000.0, 1000.0], "volume_size": list(VOLUME), "extent": list(EXTENT)}


def latent_encoder() -> VQGANLatents:
    encoder = VQGANLatents(
        {"n_codes": 64, "embedding_dim": 4, "n_hiddens": 8, "downsample": 4, "patch": 2, "n_res_blocks": 1}
    )
    encoder.measure(encoder.encode_raw(torch.tanh(torch.randn(4, 1, *VOLUME))))
    return encoder


def module(num_batches: int = 4, denoiser: UNet3D | None = None, **options) -> DDPMModule:
    torch.manual_seed(0)
    objective = options.pop("objective", NoiseObjective())
    optimizer = options.pop("optimizer", partial(torch.optim.AdamW, lr=1e-3))
    unet = denoiser or UNet3D(
        4, dim=8, dim_mults=(1, 2), condition={"channels": 4, "embedding_dim": 32}, blocks=1, head_dim=8
    )
    encoder = CNNXrayEncoder(width=8, blocks=1, feature_channels=8, embedding_dim=32)
    lift, prior = RayLift(8, 4, depth_bins=4), options.pop("prior", None)
    parts = GeneratorParts(unet, encoder, lift, latent_encoder(), prior)
    return DDPMModule(
        parts, objective, Optimisation(optimizer, num_batches, warmup_steps=1), dict(PROTOCOL), **options
    )


def shared_pipeline(**protocol) -> XrayToCTPipeline:
    """Untrained, for X-rays of 64 x 64 pixels: a frontal alone, or a frontal and a lateral."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    prior = ViewPriors((4, 8, 8, 8), pixels=8, rank=4, fill_rank=2)
    prior.fit(torch.rand(8, 2, 1, 64, 64, generator=rng), torch.randn(8, 4, 8, 8, 8, generator=rng))
    condition = {"channels": 4, "embedding_dim": 32}
    unet = UNet3D(4, dim=8, dim_mults=(1, 2), condition=condition, prior={"residual": True}, blocks=1, head_dim=8)
    made = module(denoiser=unet, prior=prior)
    torch.nn.init.normal_(unet.out.weight, std=0.1)
    pipeline = made.pipeline()
    shared = {"views": 2, "view_drop": 0.5, "xray_size": [64, 64]}
    pipeline.register_to_config(protocol={**PROTOCOL, **shared, **protocol})
    return pipeline


def vqgan_file(path, **header) -> tuple[VQGAN3D, Path]:
    """A small VQ-GAN and its checkpoint."""
    model = VQGAN3D(n_codes=8, embedding_dim=2, n_hiddens=8, n_res_blocks=1)
    header = {"format": 1, "stage": "vqgan", "components": {"vqgan": component(model, "model.")}, **header}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"header": header, "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, path)
    return model, path


class Steps:
    """`n` items of three cases, as of the step sampler from step `first`."""

    def __init__(self, n: int, first: int = 0):
        self.n, self.first = n, first

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return item((self.first + i) % 3, step=self.first + i)


def item(index: int, step: int = 0) -> dict:
    generator = torch.Generator().manual_seed(index)
    return {
        "latent": torch.randn(4, 8, 8, 8, generator=generator),
        "xray": torch.rand(1, 1, 64, 64, generator=generator),
        "pose": make_pose(EXTENT)[None],
        "spacing": torch.tensor(EXTENT) / 32,
        "label": 0,
        "id": f"case{index}",
        "index": index,
        "step": step,
    }
