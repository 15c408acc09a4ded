"""Rows `unet_forward` and `unet_step`: the denoiser against the ancestor's U-Net and MONAI's, at equal parameters."""

from dataclasses import replace

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
    """Our denoiser as `settings.yaml` sets it up; the lifted X-ray features are left out, the peers have none."""
    from ddpm.denoiser.unet import UNet3D

    network = setting["networks"]["unet"]
    condition = {**network["condition"], "embedding_dim": setting["condition"]}
    model = UNet3D(setting["latent"][0], **{**network, "condition": condition})
    return wake(model).to(device)


def make_ancestor(setting: dict, device: str) -> nn.Module:
    """The ancestor's network, from its package."""
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
    """Fills layers that start at zero: zeros may be quicker to multiply than the weights of a trained network."""
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
    """Whether the project itself would use bfloat16 on this device."""
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

    return Work(step, _facts(model, "bfloat16" if bfloat16 else "float32"), floor=step)


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

    return Work(step, _facts(model, "bfloat16" if bfloat16 else "float32"), finish, floor=learn)


def forward_ours(setting: dict, device: str) -> Work:
    """As the pipeline calls it."""
    return _forward(setting, device, make_ours(setting, device), "ours", has_bfloat16(device))


def forward_ours_compiled(setting: dict, device: str) -> Work:
    """The same behind `torch.compile`: what a compiler would add."""
    model = torch.compile(make_ours(setting, device))
    return replace(_forward(setting, device, model, "ours", has_bfloat16(device)), floor=None)


def forward_ancestor(setting: dict, device: str) -> Work:
    """As it comes: float32."""
    return _forward(setting, device, make_ancestor(setting, device), "ancestor", False)


def forward_ancestor_autocast(setting: dict, device: str) -> Work:
    """Under bfloat16 autocast."""
    return _forward(setting, device, make_ancestor(setting, device), "ancestor", True)


def forward_monai(setting: dict, device: str) -> Work:
    """As it comes: float32."""
    return _forward(setting, device, make_monai(setting, device), "monai", False)


def forward_monai_autocast(setting: dict, device: str) -> Work:
    """Under bfloat16 autocast."""
    return _forward(setting, device, make_monai(setting, device), "monai", True)


def _our_step(setting: dict, device: str, model: nn.Module) -> Work:
    from diffusers.training_utils import EMAModel

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, power=0.75, foreach=True)
    return _step(setting, device, model, "ours", has_bfloat16(device), optimizer, average)


def step_ours(setting: dict, device: str) -> Work:
    """With the optimizer and the average of the weights that `ddpm.module` trains with."""
    return _our_step(setting, device, make_ours(setting, device))


def step_ours_compiled(setting: dict, device: str) -> Work:
    """The same behind `torch.compile`."""
    return replace(_our_step(setting, device, torch.compile(make_ours(setting, device))), floor=None)


def _peer_step(setting: dict, device: str, model: nn.Module, kind: str, bfloat16: bool) -> Work:
    # Adam as its trainer makes it, and no average: its trainer averages every tenth step only
    return _step(setting, device, model, kind, bfloat16, torch.optim.Adam(model.parameters(), lr=1e-4))


def step_ancestor(setting: dict, device: str) -> Work:
    """As it comes: float32, Adam."""
    return _peer_step(setting, device, make_ancestor(setting, device), "ancestor", False)


def step_ancestor_autocast(setting: dict, device: str) -> Work:
    """Under bfloat16 autocast."""
    return _peer_step(setting, device, make_ancestor(setting, device), "ancestor", True)


def step_monai(setting: dict, device: str) -> Work:
    """As it comes: float32, Adam."""
    return _peer_step(setting, device, make_monai(setting, device), "monai", False)


def step_monai_autocast(setting: dict, device: str) -> Work:
    """Under bfloat16 autocast."""
    return _peer_step(setting, device, make_monai(setting, device), "monai", True)


ROWS = [
    Row(
        "unet_forward",
        "U-Net forward, no gradient",
        {
            "ours": forward_ours,
            "video-diffusion-pytorch Unet3D": forward_ancestor,
            "video-diffusion-pytorch Unet3D, bfloat16 autocast": forward_ancestor_autocast,
            "MONAI DiffusionModelUNet": forward_monai,
            "MONAI DiffusionModelUNet, bfloat16 autocast": forward_monai_autocast,
            "ours, torch.compile": forward_ours_compiled,
        },
    ),
    Row(
        "unet_step",
        "U-Net training step: forward, backward, optimizer, EMA",
        {
            "ours": step_ours,
            "video-diffusion-pytorch Unet3D": step_ancestor,
            "video-diffusion-pytorch Unet3D, bfloat16 autocast": step_ancestor_autocast,
            "MONAI DiffusionModelUNet": step_monai,
            "MONAI DiffusionModelUNet, bfloat16 autocast": step_monai_autocast,
            "ours, torch.compile": step_ours_compiled,
        },
    ),
]
