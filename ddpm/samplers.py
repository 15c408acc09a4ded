"""The diffusers schedulers that may sample, by name: a config names one of them, never an arbitrary class."""

from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin

SAMPLERS: dict[str, type[SchedulerMixin]] = {
    cls.__name__: cls for cls in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler)
}


def make_sampler(name: str, training: SchedulerMixin, **options) -> SchedulerMixin:
    """A sampler over the noise schedule that the denoiser was trained on.

    Args:
        name: one of `SAMPLERS`.
        training: the scheduler of training, whose config is carried over.
        options: of the sampler itself, such as `solver_order`.

    Raises:
        ValueError: for an unknown name, with the choices.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler.scheduler={name}: choose one of {', '.join(SAMPLERS)}")
    # every step ends on pure noise at T-1 (trailing), and latents are no images: clipping would shrink them
    return SAMPLERS[name].from_config(training.config, timestep_spacing="trailing", clip_sample=False, **options)
