"""A source volume as the condition: features on its own grid, resampled to that of the latents."""

import json
from functools import partial

import pytest
import torch
from ddpm_parts import PROTOCOL, VOLUME, item, latent_encoder
from torch.utils.data import default_collate

from ddpm.checkpoint.write import component
from ddpm.conditioning.lift import GridLift, make_lift
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.objective import NoiseObjective
from ddpm.module import DDPMModule, GeneratorParts
from ddpm.registry import CLASSES
from ddpm.xray_encoder import VolumeEncoder
from vq_gan_3d.optimisation import Optimisation

SLICES = 8


def encoder() -> VolumeEncoder:
    torch.manual_seed(0)
    return VolumeEncoder(width=8, blocks=1, feature_channels=8, embedding_dim=16)


def test_a_voxel_keeps_its_position_in_the_map():
    volume = torch.zeros(1, 16, 1, 64, 64)
    changed = volume.clone()
    changed[0, 11, 0, 20, 50] = 1.0
    with torch.no_grad():
        before, after = encoder()(volume), encoder()(changed)
    change = (after.maps - before.maps).square().sum(dim=(0, 2))
    assert torch.unravel_index(change.argmax(), change.shape) == (11 // 2, 20 // 8, 50 // 8)
    assert before.embedding.shape == (1, before.maps.shape[1], 16)


def test_the_lift_keeps_places():
    """A linear ramp along each axis is the same ramp on any grid."""
    lift = GridLift(3, 3)
    torch.nn.init.eye_(lift.mix.weight.data[:, :, 0, 0, 0])
    torch.nn.init.zeros_(lift.mix.bias)

    def ramps(*size: int) -> torch.Tensor:
        axes = [(torch.arange(n) + 0.5) / n for n in size]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    maps = ramps(8, 16, 32).movedim(0, 1)[None]
    lifted = lift(maps, None, None, (16, 12, 10))[0]
    inner = (slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    assert torch.allclose(lifted[inner], ramps(16, 12, 10)[inner], atol=1e-5)


def test_sides_that_cannot_be_folded_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 60, 64\).*multiples of \(2, 8, 8\)"):
        encoder()(torch.zeros(1, SLICES, 1, 60, 64))


def test_trains_and_rebuilds_without_a_pose():
    source = encoder()
    unet = UNet3D(4, dim=8, dim_mults=(1, 2), condition={"channels": 4, "embedding_dim": 16}, blocks=1, head_dim=8)
    parts = GeneratorParts(unet, source, make_lift(source, 4, 16), latent_encoder())
    optimisation = Optimisation(partial(torch.optim.AdamW, lr=1e-3), 1)
    module = DDPMModule(parts, NoiseObjective(), optimisation, dict(PROTOCOL))
    torch.nn.init.normal_(module.trained["denoiser"].out.weight)
    volume = {**item(0), "xray": torch.rand(SLICES, 1, 64, 64), "pose": torch.full((SLICES, 9), float("nan"))}
    module.log = lambda *arguments, **options: None
    module.training_step(default_collate([volume, volume]), 0).backward()
    for part in ("xray_encoder", "lift"):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.trained[part].parameters())
        entry = json.loads(json.dumps(component(module.trained[part])))
        CLASSES[entry["class"]](**entry["config"]).load_state_dict(module.trained[part].state_dict())
    pipeline = module.pipeline().set_sampler("DDIMScheduler", 1)
    generated = pipeline(volume["xray"][None], volume["pose"][None]).volumes
    assert generated.shape == (1, 1, *VOLUME) and torch.isfinite(generated).all()
