"""Rows `unet_forward` and `unet_step`: the denoiser against the U-Nets of X-ray2CTPA and MONAI at equal parameters."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed.workload import Row, Work


def _inputs(setting: dict, device: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = setting["batch"], *setting["latent"]
    return {
        "noisy": torch.randn(shape, generator=generator).to(device),
        "noise": torch.randn(shape, generator=generator).to(device),
        "timestep": torch.full((setting["batch"],), 500, device=device),
        "condition": torch.randn(setting["batch"], setting["condition"], generator=generator).to(device),
    }


def make_ours(setting: dict, device: str) -> nn.Module:
    """Our denoiser as in `settings.yaml`, without lifted X-ray features, which the others do not have."""
    from ddpm.denoiser.unet import UNet3D

    network = setting["networks"]["unet"]
    condition = {**network["condition"], "embedding_dim": setting["condition"]}
    model = UNet3D(setting["latent"][0], **{**network, "condition": condition})
    return wake(model).to(device)


def make_xray2ctpa(setting: dict, device: str) -> nn.Module:
    """U-Net of the X-ray2CTPA baseline, from its package."""
    from video_diffusion_pytorch import Unet3D

    network = setting["networks"]["unet_peer"]
    return Unet3D(channels=setting["latent"][0], cond_dim=setting["condition"], **network).to(device)


def make_monai(setting: dict, device: str) -> nn.Module:
    """MONAI's diffusion U-Net with the condition as one token of its cross-attention."""
    from monai.networks.nets import DiffusionModelUNet

    channels = setting["latent"][0]
    network = setting["networks"]["unet_monai"]
    options = {"with_conditioning": True, "cross_attention_dim": setting["condition"], **network}
    return wake(DiffusionModelUNet(3, channels, channels, **options)).to(device)


def wake(model: nn.Module) -> nn.Module:
    """Fills zero-initialised layers with small random weights, since zeros may be faster to multiply."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.is_meta and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def _call(model: nn.Module, x: dict, kind: str) -> torch.Tensor:
    if kind == "monai":
        return model(x["noisy"], x["timestep"], context=x["condition"][:, None])
    return model(x["noisy"], x["timestep"], x["condition"])


def _autocast(device: str, enabled: bool):
    return torch.autocast(device, dtype=torch.bfloat16, enabled=enabled)


def has_bfloat16(device: str) -> bool:
    """Whether the project uses bfloat16 on this device."""
    from common.autocast import inference_autocast

    with inference_autocast(torch.device(device)):
        return torch.is_autocast_enabled(torch.device(device).type)


def _facts(model: nn.Module, precision: str) -> dict:
    return {"parameters": sum(p.numel() for p in model.parameters()), "precision": precision}


def _forward(setting: dict, device: str, model: nn.Module, kind: str, bfloat16: bool) -> Work:
    x = _inputs(setting, device)
    model.eval()

    @torch.no_grad()
    def step() -> None:
        with _autocast(device, bfloat16):
            _call(model, x, kind)

    return Work(step, _facts(model, "bfloat16" if bfloat16 else "float32"), roofline=step)


def _step(setting: dict, device: str, model: nn.Module, kind: str, bfloat16: bool, optimizer, average=None) -> Work:
    x = _inputs(setting, device)
    model.train()

    def learn() -> None:
        with _autocast(device, bfloat16):
            prediction = _call(model, x, kind)
        F.mse_loss(prediction.float(), x["noise"]).backward()

    def step() -> None:
        optimizer.zero_grad()
        learn()
        optimizer.step()
        if average is not None:
            average.step(model.parameters())

    def finish() -> dict:
        with torch.no_grad(), _autocast(device, bfloat16):
            return {"loss": float(F.mse_loss(_call(model, x, kind).float(), x["noise"]))}

    return Work(step, _facts(model, "bfloat16" if bfloat16 else "float32"), finish, roofline=learn)


def forward_ours(setting: dict, device: str, compiled: bool = False) -> Work:
    """As the pipeline calls it."""
    model = make_ours(setting, device)
    work = _forward(setting, device, torch.compile(model) if compiled else model, "ours", has_bfloat16(device))
    return replace(work, roofline=None) if compiled else work


def forward_third_party(setting: dict, device: str, kind: str = "xray2ctpa", bfloat16: bool = False) -> Work:
    """In float32, the package's default, or under bfloat16 autocast."""
    return _forward(setting, device, MAKE[kind](setting, device), kind, bfloat16)


def step_ours(setting: dict, device: str, compiled: bool = False) -> Work:
    """With the optimizer and the weight average of `ddpm.module`."""
    from diffusers.training_utils import EMAModel

    model = make_ours(setting, device)
    model = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    work = _step(setting, device, model, "ours", has_bfloat16(device), optimizer, average)
    return replace(work, roofline=None) if compiled else work


def step_third_party(setting: dict, device: str, kind: str = "xray2ctpa", bfloat16: bool = False) -> Work:
    """In float32 or under bfloat16 autocast, with Adam and no average: its trainer averages every tenth step only."""
    model = MAKE[kind](setting, device)
    return _step(setting, device, model, kind, bfloat16, torch.optim.Adam(model.parameters(), lr=1e-4))


MAKE = {"xray2ctpa": make_xray2ctpa, "monai": make_monai}


def _sides(ours, third_party) -> dict:
    named = {"video-diffusion-pytorch Unet3D": "xray2ctpa", "MONAI DiffusionModelUNet": "monai"}
    sides = {"ours": ours}
    for name, kind in named.items():
        sides[name] = partial(third_party, kind=kind)
        sides[f"{name}, bfloat16 autocast"] = partial(third_party, kind=kind, bfloat16=True)
    return {**sides, "ours, torch.compile": partial(ours, compiled=True)}


ROWS = [
    Row("unet_forward", "U-Net forward, no gradient", _sides(forward_ours, forward_third_party)),
    Row(
        "unet_step",
        "U-Net training step: forward, backward, optimizer, EMA",
        _sides(step_ours, step_third_party),
    ),
]
