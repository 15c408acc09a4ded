"""The diffusers schedulers that may sample, by name: a config names one of them, never an arbitrary class."""

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from jaxtyping import Float
from torch import Tensor

from ddpm.diffusion.solvers import FlowEuler, LogSNRSolver

SAMPLERS: dict[str, type[SchedulerMixin]] = {
    cls.__name__: cls
    for cls in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler)
}
PREVIEW_STEPS = 4  # with an exact denoiser so few evaluations give 0.2 to 0.8 of the true spread, whatever the solver
PREVIEW = "preview, spread too small"
SPACINGS = ("trailing", "log_snr")
FLOW_SAMPLERS = ("DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")


def make_sampler(name: str, training: SchedulerMixin, spacing: str = "trailing", **options) -> SchedulerMixin:
    """A sampler over the noise process that the denoiser was trained on.

    Args:
        name: one of `SAMPLERS`.
        training: the scheduler of training, whose config is carried over.
        spacing: of the steps: `trailing`, equal in time; or `log_snr` (`ddpm.diffusion.solvers`), of DPM-Solver++
        alone.
        options: of the sampler itself, such as `solver_order`.

    Raises:
        ValueError: for an unknown name or spacing, and for a sampler that cannot follow the process of training.
    """
    if spacing not in SPACINGS or (spacing == "log_snr" and name != "DPMSolverMultistepScheduler"):
        raise ValueError(
            f"sampler.spacing={spacing} with {name}: choose {' or '.join(SPACINGS)}; log_snr needs "
            "sampler.scheduler=DPMSolverMultistepScheduler"
        )
    if name not in SAMPLERS:
        raise ValueError(f"sampler.scheduler={name}: choose one of {', '.join(SAMPLERS)}")
    kind = LogSNRSolver if spacing == "log_snr" else SAMPLERS.get(name)
    if isinstance(training, FlowMatchEulerDiscreteScheduler):
        if name not in FLOW_SAMPLERS:
            raise ValueError(
                f"sampler.scheduler={name}: the model was trained with prediction=flow, which "
                f"{' and '.join(FLOW_SAMPLERS)} can sample"
            )
        if name == "DPMSolverMultistepScheduler":
            options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 1.0, **options}
            steps = training.config.num_train_timesteps
            return kind(num_train_timesteps=steps, **options)
        return FlowEuler.from_config(training.config, **options)
    if name == "FlowMatchEulerDiscreteScheduler":
        raise ValueError(
            f"sampler.scheduler={name}: it samples models trained with prediction=flow, not "
            f"{training.config.prediction_type}"
        )
    # every step ends on pure noise at T-1 (trailing); whitened latents have no bounds, so clipping would shrink them
    return kind.from_config(training.config, **{"timestep_spacing": "trailing", "clip_sample": False, **options})


def clean_latents(
    scheduler: SchedulerMixin, prediction: Float[Tensor, "*b"], timestep, latents: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """The clean latents that a prediction of the network implies, whatever it predicts.

    Raises:
        ValueError: a kind of prediction that is not known.
    """
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("use_flow_sigmas", False)
    if flow:  # x_t = (1 - s) x_0 + s e, and the network predicts e - x_0
        return latents - timestep / scheduler.config.num_train_timesteps * prediction
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return prediction
    kept = scheduler.alphas_cumprod[int(timestep)].to(latents).clamp_min(1e-8)
    signal, noise = kept.sqrt(), (1.0 - kept).sqrt()
    if kind == "epsilon":
        return (latents - noise * prediction) / signal
    if kind == "v_prediction":
        return signal * latents - noise * prediction
    raise ValueError(f"prediction_type={kind}: choose sample, epsilon or v_prediction")


def network_timestep(scheduler: SchedulerMixin, timestep):
    """The timestep that the denoiser knows by 0 … T-1; flow samplers count noise in 1 … T."""
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("use_flow_sigmas", False)
    return timestep - 1 if flow else timestep
