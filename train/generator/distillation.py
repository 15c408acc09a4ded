"""Distils a sampler: a student reaches with few evaluations of its network what its teacher reaches with many.

Noise and X-ray determine the sample of a deterministic sampler (Luhman and Luhman, arXiv:2101.02388). The student, a
copy of the teacher, runs the same solver with fewer steps. Its loss is the squared difference between its states and
those of the teacher at the same timesteps, the last of which is the sample; as in progressive distillation (Salimans
and Ho, arXiv:2202.00512) a step learns to replace several, here from the student's own states and in one round.
"""

from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from common.files import sha256
from ddpm.conditioning.condition import Condition
from ddpm.denoiser.unet import UNet3D
from ddpm.diffusion.sampling_loop import sample_latents, set_steps
from ddpm.pipeline import XrayToCTPipeline

END = -1  # in place of a timestep: the clean latents

States = dict[int, Float[Tensor, "b c d h w"]]  # latents by the timestep of the sampler at which the network sees them


def make_student(teacher: XrayToCTPipeline, steps: int, checkpoint: Path) -> XrayToCTPipeline:
    """A copy of the teacher with its own denoiser, distilled for `steps` steps of the teacher's solver.

    Both share the parts that do not train. The entry `distilled` of its protocol names `checkpoint`, the teacher's
    file, by its hash. Raises UserError for steps whose timesteps the teacher does not visit, and for a teacher that
    draws noise at every step, is distilled itself or ignores the noise.
    """
    if teacher.stochastic:
        raise UserError("sampler: the teacher draws noise at every step; choose a deterministic one (sampler=default)")
    if "distilled" in teacher.protocol:
        raise UserError("checkpoint: these weights are distilled already; give those of their teacher")
    if teacher.denoiser.config.regression:
        raise UserError("checkpoint: a regression model ignores the noise; sampler.steps=1 needs no distillation")
    visited = timesteps(teacher)
    sampling = dict(teacher.config.sampling)
    own = {"scheduler": sampling["scheduler"], "steps": int(steps), "spacing": sampling["spacing"]}
    own |= {key: sampling[key] for key in teacher.solver_options}
    origin = {"file": checkpoint.name, "sha256": sha256(checkpoint) if checkpoint.is_file() else None}
    origin |= {"steps": teacher.steps, "guidance_scale": teacher.guidance_scale}
    protocol = {**teacher.protocol, "condition_drop": 0.0, "distilled": {"sampler": own, "teacher": origin}}
    parts = {**dict.fromkeys(XrayToCTPipeline._optional_components), **teacher.networks}
    parts["denoiser"] = _seeing_noise(teacher.denoiser)
    student = XrayToCTPipeline(**parts, scheduler=teacher.training_scheduler, protocol=protocol)
    if missed := [t for t in timesteps(student) if t not in visited]:
        raise UserError(
            f"steps={steps}: the {teacher.steps} steps of the teacher do not visit timestep {missed[0]}; give a "
            f"divisor of {teacher.steps}, or other sampler.steps"
        )
    return student


def _seeing_noise(denoiser: UNet3D) -> UNet3D:
    """A copy of the denoiser whose network sees pure noise, also if it is preconditioned."""
    use = denoiser.config.prior
    if not (use and use.get("preconditioning")):
        return deepcopy(denoiser)
    shown = {**use, "preconditioning": {**use["preconditioning"], "shows_pure_noise": True}}
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_")}
    copy = UNet3D(**{**config, "prior": shown})
    copy.load_state_dict(denoiser.state_dict())
    return copy.to(denoiser.device).eval()


def timesteps(pipeline: XrayToCTPipeline) -> list[int]:
    """The timesteps of the pipeline's sampler, from noise to data."""
    set_steps(pipeline.scheduler, pipeline.steps, pipeline.denoiser.device)
    return [int(t) for t in pipeline.scheduler.timesteps]


def learned_timesteps(student: XrayToCTPipeline) -> list[int]:
    """Where the states of a student have a loss: all after the first, which is the noise."""
    return [*timesteps(student)[1:], END]


def follow(pipeline: XrayToCTPipeline, noise: Float[Tensor, "b c d h w"], condition: Condition) -> States:
    """The states of the pipeline's sampler from `noise`; gradients pass to its denoiser."""
    states: States = {}

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        states[int(timestep)] = latents
        return pipeline.predict(latents, timestep, condition, pipeline.guidance_scale)

    set_steps(pipeline.scheduler, pipeline.steps, noise.device)
    start = noise * getattr(pipeline.scheduler, "init_noise_sigma", 1.0)
    states[END] = sample_latents(pipeline.scheduler, predict, start, dict)
    return states


def trajectory_loss(found: States, wanted: States) -> Tensor:
    """Mean squared difference of the states after the first, summed over them."""
    _, *learned = found
    return torch.stack([(found[t] - wanted[t].to(found[t])).square().mean() for t in learned]).sum()
