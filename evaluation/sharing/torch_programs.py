"""Writes a generator as three programs of `torch.export` that run with torch alone, each checked against its network.

X-ray encoder and decoder take one X-ray and one volume, the denoiser any batch of samples. `programs.json` holds the
shapes, the nominal pose, the sampler with its steps and the differences, `scheduler` the sampler of diffusers.
"""

import json
import warnings
from pathlib import Path

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor, nn

from common.errors import UserError
from dataset.imaging.geometry import fill_unknown, unknown_pose
from dataset.imaging.unknown_pixels import UNKNOWN
from ddpm.conditioning.condition import make_condition
from ddpm.conditioning.views import VIEW_NAMES, serves_fewer_views
from ddpm.diffusion.distilled import DEFAULT
from ddpm.diffusion.samplers import SAMPLERS, network_timestep
from ddpm.pipeline import XrayToCTPipeline

TOLERANCE = 1e-4  # of the largest value of an output: rounding of float32 in another order
BATCH = torch.export.Dim("batch", min=1, max=1024)
TRACED, CHECKED = 2, 3  # batch sizes of the denoiser


class XrayToCondition(nn.Module):
    """An X-ray `(1, v, 1, h, w)` in [0, 1], its pose `(1, v, 9)` and extent `(1, 3)` to arguments of the denoiser.

    It aligns the X-ray as one of unknown pose, if the generator has a pose regressor.
    """

    def __init__(self, pipeline: XrayToCTPipeline):
        super().__init__()
        self.pose_regressor, self.prior = pipeline.pose_regressor, pipeline.prior
        self.xray_encoder, self.lift = pipeline.xray_encoder, pipeline.lift
        self.size = tuple(pipeline.latent_encoder.latent_shape(pipeline.volume_size)[1:])
        self.token_grid = pipeline.denoiser.condition.token_grid

    def forward(
        self, xray: Float[Tensor, "1 v 1 h w"], pose: Float[Tensor, "1 v 9"], extent: Float[Tensor, "1 3"]
    ) -> dict[str, Tensor]:
        if self.pose_regressor is not None:
            xray, pose = self.pose_regressor(xray, pose, torch.ones_like(pose[..., 0], dtype=torch.bool))
        prior = (None, None) if self.prior is None else self.prior.moments(xray)
        place = pose, extent, self.size
        encoded, present = self.xray_encoder(xray), self.xray_encoder.present_views(xray)
        made = make_condition(encoded, self.lift, *place, self.token_grid, *prior, present)
        return {name: part for name, part in made._asdict().items() if part is not None}


class LatentsToHU(nn.Module):
    """Standardised latents `(1, c, d, h, w)` to a volume `(1, 1, D, H, W)` in HU."""

    def __init__(self, pipeline: XrayToCTPipeline):
        super().__init__()
        self.latent_encoder, self.window = pipeline.latent_encoder, pipeline.window

    def forward(self, latents: Float[Tensor, "1 c d h w"]) -> Float[Tensor, "1 1 D H W"]:
        return self.window.denormalise(self.latent_encoder.decode(latents))


@torch.no_grad()
def write_programs(pipeline: XrayToCTPipeline, folder: Path) -> dict[str, float]:
    """Writes programs, `programs.json` and `scheduler`; returns each program's largest difference to its network.

    A difference is relative to the largest value of the output. Raises UserError as `portable_sampler`, and for a part
    that `torch.export` cannot export or whose program differs by more than `TOLERANCE`.
    """
    portable_sampler(pipeline).save_pretrained(folder / "scheduler")
    shape = tuple(pipeline.latent_encoder.latent_shape(pipeline.volume_size))
    encoder = XrayToCondition(pipeline)
    parts = {"xray_encoder": encoder, "denoiser": pipeline.denoiser, "decoder": LatentsToHU(pipeline)}
    differences = {}
    for name, part in parts.items():
        inputs = (_inputs(name, pipeline, encoder, shape, n) for n in (TRACED, CHECKED))
        differences[name] = _write_program(name, part.eval(), folder, *inputs)
    content = _description(pipeline, shape, differences)
    (folder / "programs.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return differences


def portable_sampler(pipeline: XrayToCTPipeline) -> SchedulerMixin:
    """The sampler of the pipeline; UserError for one that needs more than the programs and diffusers."""
    chosen, scheduler = pipeline.config.sampling, pipeline.scheduler
    if pipeline.guidance_scale != 1.0:
        reason = f"guidance_scale={pipeline.guidance_scale:g}: the program of the denoiser has its condition; set 1"
    elif pipeline.consistent:
        reason = "consistency=on: the programs do not compare latents with their X-ray; set off"
    elif chosen["spacing"] != "trailing":
        reason = f"spacing={chosen['spacing']}: diffusers has no such steps; set sampler.spacing=trailing"
    elif type(scheduler) not in SAMPLERS.values():
        reason = f"scheduler={chosen['scheduler']}: diffusers takes other steps; set {DEFAULT['scheduler']}"
    else:
        return scheduler
    raise UserError(f"format=torch_export: sampler.{reason}, or use format=diffusers")


def _write_program(name: str, part: nn.Module, folder: Path, traced: dict, checked: dict) -> float:
    """The program's difference to its network."""
    program = _export(name, part, traced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of weights that share storage
        torch.export.save(program, folder / f"{name}.pt2")
    loaded = torch.export.load(folder / f"{name}.pt2").module()
    difference = _difference(loaded(**checked), part(**checked))
    if not difference <= TOLERANCE:
        raise UserError(
            f"format=torch_export: the program of {name} differs from its network by {difference:.1e} of its "
            f"largest value, more than {TOLERANCE:g}; use format=diffusers"
        )
    return difference


def _export(name: str, part: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    try:
        batch = {0: BATCH} if name == "denoiser" else {}
        return torch.export.export(part, (), inputs, dynamic_shapes=dict.fromkeys(inputs, batch))
    except Exception as error:  # of any part of the compiler
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"format=torch_export: torch cannot export {name} ({reason}); use format=diffusers") from error


def _inputs(name: str, pipeline: XrayToCTPipeline, encoder: nn.Module, shape: tuple, n: int) -> dict[str, Tensor]:
    """Random keyword arguments of a program; `n` samples of one X-ray."""
    drawn = torch.Generator().manual_seed(n)
    latents = torch.randn(n, *shape, generator=drawn)
    if name == "decoder":
        return {"latents": latents[:1]}
    pose = nominal_pose(pipeline)
    xray = torch.rand(*pose.shape[:2], 1, *pipeline.protocol["xray_size"], generator=drawn)
    if n == CHECKED and serves_fewer_views(pipeline.protocol):
        xray[:, -1] = UNKNOWN  # the program, traced with all views, must serve fewer
    inputs = {"xray": xray, "pose": pose, "extent": torch.tensor(pipeline.extent)[None]}
    if name == "xray_encoder":
        return inputs
    condition = {key: value.expand(n, *value.shape[1:]).contiguous() for key, value in encoder(**inputs).items()}
    return {"sample": latents, "timestep": torch.linspace(1, 900, n).long(), **condition}


def nominal_pose(pipeline: XrayToCTPipeline) -> Float[Tensor, "1 v 9"]:
    """The pose that the pipeline assumes for X-rays of unknown pose."""
    views = pipeline.protocol.get("views", 1)
    return fill_unknown(unknown_pose(views, VIEW_NAMES[:views])[None], pipeline.extent)


def _difference(found: Tensor | dict, expected: Tensor | dict) -> float:
    """The largest difference, relative to the largest value of the output."""
    if isinstance(expected, dict):
        return max(_difference(found[name], expected[name]) for name in expected)
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _description(pipeline: XrayToCTPipeline, shape: tuple, differences: dict[str, float]) -> dict:
    return {
        "torch_version": torch.__version__,
        "programs": {name: {"largest_relative_difference": value} for name, value in differences.items()},
        "xray_size": list(pipeline.protocol["xray_size"]),
        "views": pipeline.protocol.get("views", 1),
        "missing_views": "NaN" if serves_fewer_views(pipeline.protocol) else "refused",
        "latent_shape": list(shape),
        "volume_size": list(pipeline.volume_size),
        "window_hu": [pipeline.window.low, pipeline.window.high],
        "extent_mm": list(pipeline.extent),
        "nominal_pose": nominal_pose(pipeline)[0].tolist(),
        "sampler": type(pipeline.scheduler).__name__,
        "steps": pipeline.steps,
        "timestep_offset": network_timestep(pipeline.scheduler, 0),
    }
