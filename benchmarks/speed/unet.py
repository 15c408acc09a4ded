"""Rows `unet_forward` and `unet_step`: the denoiser against the U-Nets of X-ray2CTPA and MONAI at equal parameters."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed.workload import Row, Work


def _inputs(setting: dict, device: str) -> dict[str, torch.Tensor]:
    generator, batch = torch.Generator().manual_seed(0), setting["batch"]
    shapes = {"noisy": (batch, *setting["latent"]), "noise": (batch, *setting["latent"])}
    shapes["condition"] = (batch, setting["condition"])
    drawn = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    return {**drawn, "timestep": torch.full((batch,), 500, device=device)}


def make_ours(setting: dict, device: str) -> nn.Module:
    """Our denoiser as in `settings.yaml`, without lifted X-ray features, which the others do not have."""
    from ddpm.denoiser.unet import UNet3D

    network = setting["networks"]["unet"]
    condition = {**network["condition"], "embedding_dim": setting["condition"]}
    return fill_zero_layers(UNet3D(setting["latent"][0], **{**network, "condition": condition})).to(device)


def make_xray2ctpa(setting: dict, device: str) -> nn.Module:
    """U-Net of the X-ray2CTPA baseline, from its package."""
    from video_diffusion_pytorch import Unet3D

    network = setting["networks"]["unet_peer"]
    return Unet3D(channels=setting["latent"][0], cond_dim=setting["condition"], **network).to(device)


def make_monai(setting: dict, device: str) -> nn.Module:
    """MONAI's diffusion U-Net with the condition as one token of its cross-attention."""
    from monai.networks.nets import DiffusionModelUNet

    channels = setting["latent"][0]
    options = {"cross_attention_dim": setting["condition"], **setting["networks"]["unet_monai"]}
    return fill_zero_layers(DiffusionModelUNet(3, channels, channels, with_conditioning=True, **options)).to(device)


def fill_zero_layers(model: nn.Module) -> nn.Module:
    """Fills zero-initialised layers with small random weights, since zeros may be faster to multiply."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.is_meta and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def _call(model: nn.Module, x: dict, kind: str) -> torch.Tensor:
    if kind == "monai":
        return model(x["noisy"], x["timestep"], context=x["condition"][:, None])
    return model(x["noisy"], x["timestep"], x["condition"])


def autocast(device: str, enabled: bool):
    return torch.autocast(device, dtype=torch.bfloat16, enabled=enabled)


def has_bfloat16(device: str) -> bool:
    """Whether the project uses bfloat16 on this device."""
    from common.autocast import inference_autocast

    with inference_autocast(torch.device(device)):
        return torch.is_autocast_enabled(torch.device(device).type)


def forward(
    setting: dict, device: str, kind: str = "ours", bfloat16: bool | None = None, compiled: bool = False
) -> Work:
    """Forward as the pipeline calls it; `bfloat16` autocast is that of the project by default."""
    model, x, bfloat16, facts = _prepared(setting, device, kind, bfloat16, compiled)
    model.eval()

    @torch.no_grad()
    def run() -> None:
        with autocast(device, bfloat16):
            _call(model, x, kind)

    return Work(run, facts, roofline=None if compiled else run)


def step(setting: dict, device: str, kind: str = "ours", bfloat16: bool | None = None, compiled: bool = False) -> Work:
    """Training step: ours with optimizer and weight average of `ddpm.module`, the others with Adam and no average.

    The trainer of the X-ray2CTPA baseline averages only every tenth step.
    """
    from diffusers.training_utils import EMAModel

    model, x, bfloat16, facts = _prepared(setting, device, kind, bfloat16, compiled)
    model.train()
    if kind == "ours":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    else:
        optimizer, average = torch.optim.Adam(model.parameters(), lr=1e-4), None

    def loss() -> torch.Tensor:
        with autocast(device, bfloat16):
            prediction = _call(model, x, kind)
        return F.mse_loss(prediction.float(), x["noise"])

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if average is not None:
            average.step(model.parameters())

    @torch.no_grad()
    def finish() -> dict:
        return {"loss": float(loss())}

    return Work(run, facts, finish, roofline=None if compiled else lambda: loss().backward())


def _prepared(setting: dict, device: str, kind: str, bfloat16: bool | None, compiled: bool) -> tuple:
    model = MAKE[kind](setting, device)
    bfloat16 = has_bfloat16(device) if bfloat16 is None else bfloat16
    precision = "bfloat16" if bfloat16 else "float32"
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "precision": precision}
    return torch.compile(model) if compiled else model, _inputs(setting, device), bfloat16, facts


MAKE = {"ours": make_ours, "xray2ctpa": make_xray2ctpa, "monai": make_monai}


def _sides(work) -> dict:
    sides = {"ours": work}
    for name, kind in (("video-diffusion-pytorch Unet3D", "xray2ctpa"), ("MONAI DiffusionModelUNet", "monai")):
        sides[name] = partial(work, kind=kind, bfloat16=False)
        sides[f"{name}, bfloat16 autocast"] = partial(work, kind=kind, bfloat16=True)
    return {**sides, "ours, torch.compile": partial(work, compiled=True)}


ROWS = [
    Row("unet_forward", "U-Net forward, no gradient", _sides(forward)),
    Row("unet_step", "U-Net training step: forward, backward, optimizer, EMA", _sides(step)),
]
