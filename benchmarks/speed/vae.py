"""Row `vae_slices`: a 2D VAE of the SDXL family over the slices of a volume, against a loop as in X-ray2CTPA."""

from functools import partial

import torch

from benchmarks.speed.workload import Row, Work


def _volume(setting: dict, device: str) -> torch.Tensor:
    shape = 1, 1, setting["slices"], setting["side"], setting["side"]
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).tanh().to(device)


def _network(setting: dict):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(**setting["networks"]["vae"])


def ours(setting: dict, device: str) -> Work:
    """`ddpm.latent.SliceVAELatents` as pipeline and latent cache call it."""
    from common.autocast import inference_autocast
    from ddpm.latent import SliceVAELatents

    encoder = SliceVAELatents.from_vae(_network(setting), "random", setting["at_once"]).to(device)
    volume = _volume(setting, device)

    @torch.no_grad()
    def step() -> torch.Tensor:
        with inference_autocast(torch.device(device)):
            return encoder.decode_raw(encoder.encode_raw(volume))

    return Work(step, {"precision": "as the pipeline: bfloat16 where the device has it"}, roofline=step)


def loop(setting: dict, device: str, bfloat16: bool = False) -> Work:
    """One slice after the other, in float32 or under bfloat16 autocast."""
    vae = _network(setting).to(device).eval().requires_grad_(False)
    volume = _volume(setting, device)
    scale = vae.config.scaling_factor

    @torch.no_grad()
    def step() -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            latents = [
                vae.encode(volume[:, :, i].expand(-1, 3, -1, -1)).latent_dist.mode() * scale
                for i in range(setting["slices"])
            ]
            return torch.stack([vae.decode(z / scale).sample.mean(dim=1, keepdim=True) for z in latents], dim=2)

    return Work(step, {"precision": "bfloat16" if bfloat16 else "float32"}, roofline=step)


PEER = "diffusers AutoencoderKL, loop over slices"
SIDES = {"ours": ours, PEER: loop, f"{PEER}, bfloat16 autocast": partial(loop, bfloat16=True)}
ROWS = [Row("vae_slices", "SDXL-VAE encode and decode, slice by slice", SIDES)]
