"""Samplers: the diffusers schedulers that a config may name, over the noise process of training."""

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from ddpm.diffusion.noise_schedule import clean_from_prediction, prediction_from_clean
from ddpm.diffusion.solvers import FlowEuler, LogSNRSolver

SAMPLERS: dict[str, type[SchedulerMixin]] = {
    cls.__name__: cls
    for cls in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler)
}
PREVIEW_STEPS = 4  # at most so many steps give 0.2 to 0.8 of the true standard deviation with an exact denoiser
PREVIEW = "preview, spread too small"
ZERO = 1e-8  # in place of a signal² of 0, by which nothing can be divided
SPACINGS = ("trailing", "log_snr")
FLOW_SAMPLERS = ("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")


def make_sampler(name: str, training: SchedulerMixin, spacing: str = "trailing", **options) -> SchedulerMixin:
    """A sampler over the noise process that the denoiser was trained on.

    Args:
        name: one of `SAMPLERS`.
        training: scheduler of training, whose config the sampler takes over.
        spacing: `trailing`, steps equal in time; or `log_snr` (`ddpm.diffusion.solvers`), for DPM-Solver++ alone.
        options: of the sampler, such as `solver_order`.

    Raises a `ValueError` for an unknown name or spacing, and for a sampler of another noise process.
    """
    if spacing not in SPACINGS or (spacing == "log_snr" and name != "DPMSolverMultistepScheduler"):
        raise ValueError(
            f"sampler.spacing={spacing} with {name}: choose {' or '.join(SPACINGS)}; log_snr needs "
            "sampler.scheduler=DPMSolverMultistepScheduler"
        )
    if name not in SAMPLERS:
        raise ValueError(f"sampler.scheduler={name}: choose one of {', '.join(SAMPLERS)}")
    kind = LogSNRSolver if spacing == "log_snr" else SAMPLERS[name]
    if isinstance(training, FlowMatchEulerDiscreteScheduler):
        if name not in FLOW_SAMPLERS:
            raise ValueError(
                f"sampler.scheduler={name}: the model was trained with prediction=flow, which "
                f"{' and '.join(FLOW_SAMPLERS)} can sample"
            )
        if name == "DPMSolverMultistepScheduler":
            options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 1.0, **options}
            return kind(num_train_timesteps=training.config.num_train_timesteps, **options)
        return FlowEuler.from_config(training.config, **options)
    if name == "FlowMatchEulerDiscreteScheduler":
        raise ValueError(
            f"sampler.scheduler={name}: it samples models trained with prediction=flow, not "
            f"{training.config.prediction_type}"
        )
    # trailing steps start at T-1, pure noise; standardised latents are unbounded, so clipping would shrink them
    return kind.from_config(training.config, **{"timestep_spacing": "trailing", "clip_sample": False, **options})


def draws_noise(scheduler: SchedulerMixin) -> bool:
    """Whether a sampler draws new noise at every step."""
    sde = str(scheduler.config.get("algorithm_type", "")).startswith("sde")
    return sde or isinstance(scheduler, DDPMScheduler)


def clean_latents(
    scheduler: SchedulerMixin, prediction: Float[Tensor, "*b"], timestep, latents: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """Clean latents that a prediction of the network at a timestep of the sampler implies."""
    return clean_from_prediction(_kind(scheduler), prediction, latents, *noise_levels(scheduler, timestep))


def prediction_of(
    scheduler: SchedulerMixin, clean: Float[Tensor, "*b"], timestep, latents: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """The prediction that implies these clean latents: the inverse of `clean_latents`."""
    return prediction_from_clean(_kind(scheduler), clean, latents, *noise_levels(scheduler, timestep))


def noise_levels(scheduler: SchedulerMixin, timestep) -> tuple[float, float]:
    """`signal_t` and `noise_t` of `ddpm.diffusion.noise_schedule` at a timestep of the sampler."""
    if _is_flow(scheduler):
        noise = float(timestep) / scheduler.config.num_train_timesteps
        return 1.0 - noise, noise
    alpha_cumprod = float(scheduler.alphas_cumprod[int(timestep)]) or ZERO
    return alpha_cumprod**0.5, (1.0 - alpha_cumprod) ** 0.5


def network_timestep(scheduler: SchedulerMixin, timestep):
    """The timestep 0 … T-1 of the denoiser; flow samplers count from 1 to T."""
    return timestep - 1 if _is_flow(scheduler) else timestep


def _is_flow(scheduler: SchedulerMixin) -> bool:
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("use_flow_sigmas", False)


def _kind(scheduler: SchedulerMixin) -> str:
    return "flow" if _is_flow(scheduler) else scheduler.config.prediction_type


def check_guidance(scale: float, guided: bool) -> float:
    """The scale as a number; a `UserError` for a scale other than 1 of a model that is not `guided`."""
    if scale != 1.0 and not guided:
        raise UserError(
            f"sampler.guidance_scale={scale:g}: guidance needs a model that was trained without its X-ray at "
            "times; this one has model.conditioning.drop=0; use 1"
        )
    return float(scale)
