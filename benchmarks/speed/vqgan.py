"""Row `vqgan_step`: a training step of the autoencoder without discriminator, against MONAI's VQVAE.

Before timing, both train on the same phantoms with the same loss and optimizer for the same number of steps; the row
also reports the error on held-out phantoms.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed.unet import autocast, has_bfloat16
from benchmarks.speed.workload import Row, Work

HELD_OUT = 2
LEARNING_RATE = 1e-3


def _phantoms(setting: dict) -> torch.Tensor:
    """`(n, 1, D, H, W)` in [-1, 1]; the last `HELD_OUT` are held out."""
    from dataset.imaging.hu_window import Window
    from dataset.phantom.render import render_phantom

    window, size = Window.parse("wide"), tuple(setting["volume"])
    volumes = (render_phantom(i, size=size).hu for i in range(setting["volumes"] + HELD_OUT))
    return torch.stack([window.normalise(torch.from_numpy(hu).float())[None] for hu in volumes])


def _work(setting: dict, device: str, model: nn.Module, bfloat16: bool, losses) -> Work:
    volumes = _phantoms(setting).to(device)
    train, held_out = volumes[:-HELD_OUT], volumes[-HELD_OUT:]
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    order = torch.Generator().manual_seed(0)

    def learn(batch: torch.Tensor) -> None:
        with autocast(device, bfloat16):
            volume, commitment = losses(model, batch)
        (F.l1_loss(volume.float(), batch) + commitment).backward()

    def step() -> None:
        chosen = torch.randint(len(train), (setting["batch"],), generator=order)
        optimizer.zero_grad()
        learn(train[chosen.to(device)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(setting["train_steps"]):
        step()
    model.eval()
    with torch.no_grad(), autocast(device, bfloat16):
        errors = [F.l1_loss(losses(model, v[None])[0].float().clamp(-1, 1), v[None]) for v in held_out]
    model.train()
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "bfloat16" if bfloat16 else "float32",
        "held_out_l1": float(torch.stack(errors).mean()),
        "steps_before": setting["train_steps"],
    }
    return Work(step, facts, roofline=lambda: learn(train[: setting["batch"]]))


def make_ours(setting: dict) -> nn.Module:
    """Our autoencoder as in `settings.yaml`."""
    from vq_gan_3d import VQGAN3D

    return VQGAN3D(**setting["networks"]["vqgan"])


def ours(setting: dict, device: str) -> Work:
    """In the precision that the training command uses."""

    def losses(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(batch)
        return out.volume, 0.25 * out.commitment

    return _work(setting, device, make_ours(setting), has_bfloat16(device), losses)


def make_monai(setting: dict) -> nn.Module:
    """MONAI's autoencoder with the downsampling and number of parameters of ours."""
    from monai.networks.nets import VQVAE

    network, width = setting["networks"]["vqgan"], setting["networks"]["vqvae"]["width"]
    return VQVAE(
        3,
        1,
        1,
        channels=(width, width),
        num_res_channels=(width, width),
        downsample_parameters=((2, 4, 1, 1),) * 2,
        upsample_parameters=((2, 4, 1, 1, 0),) * 2,
        num_embeddings=network["n_codes"],
        embedding_dim=network["embedding_dim"],
        decay=0.99,
    )


def monai(setting: dict, device: str, bfloat16: bool = False) -> Work:
    """In float32, its default, or under bfloat16 autocast; it weights the commitment itself."""
    return _work(setting, device, make_monai(setting), bfloat16, lambda model, batch: model(batch))


SIDES = {"ours": ours, "MONAI VQVAE": monai, "MONAI VQVAE, bfloat16 autocast": partial(monai, bfloat16=True)}
ROWS = [Row("vqgan_step", "VQ-GAN training step, no discriminator", SIDES)]
