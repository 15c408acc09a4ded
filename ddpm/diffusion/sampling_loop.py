"""The sampling loop: from noise to clean latents with any sampler."""

from collections.abc import Callable

import torch
from diffusers import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from ddpm.diffusion.samplers import clean_latents, noise_levels, prediction_of

Latents = Float[Tensor, "b c d h w"]


def set_steps(scheduler: SchedulerMixin, steps: int, device: torch.device) -> int:
    """Prepares a sampler; returns its number of timesteps, below `steps` where several coincide."""
    scheduler.set_timesteps(steps, device=device)
    if hasattr(scheduler, "set_begin_index"):  # else it searches its first timestep, which syncs a GPU
        scheduler.set_begin_index(0)
    return len(scheduler.timesteps)


def sample_latents(
    scheduler: SchedulerMixin,
    predict: Callable[[Latents, Tensor], Latents],
    latents: Latents,
    step_noise: Callable[[], dict],
    correct: Callable[[Latents, float, float], Latents] | None = None,
    watch: Callable[[int, Latents], None] | None = None,
    progress: Callable[[int], None] | None = None,
    measure: Callable[[Latents], None] | None = None,
) -> Latents:
    """Clean latents from the initial `latents`; the timesteps of the sampler are set.

    Args:
        predict: prediction of the network from noisy latents and a timestep of the sampler.
        step_noise: keyword arguments of a step, for samplers that draw noise.
        correct: predicted clean latents, `signal_t` and `noise_t` to corrected clean latents.
        watch: called with the number of each step, from 1, and its clean latents.
        progress: called with the number of each step after it.
        measure: called with the clean latents of the first step, before their correction.
    """
    for number, timestep in enumerate(scheduler.timesteps, start=1):
        prediction = predict(latents, timestep)
        measured = measure is not None and number == 1
        if correct is not None or watch is not None or measured:
            clean = clean_latents(scheduler, prediction, timestep, latents)
            if measured:
                measure(clean)
            if correct is not None:
                clean = correct(clean, *noise_levels(scheduler, timestep))
                prediction = prediction_of(scheduler, clean, timestep, latents)
            if watch is not None:
                watch(number, clean)
        latents = scheduler.step(prediction, timestep, latents, **step_noise()).prev_sample
        if progress is not None:
            progress(number)
    return latents
