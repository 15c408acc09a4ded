"""Samplers on N(0, s²) with its exact denoiser, and the same recursions written out; not a test file.

Under the exact denoiser of a Gaussian every solver is linear in the noise that it starts from and adds, so its
standard deviation is the norm of the coefficients of that noise.
"""

import math

import numpy as np
import torch

from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.sample_noise import SampleNoise
from ddpm.diffusion.samplers import make_sampler, network_timestep

SDE = {"spacing": "log_snr", "algorithm_type": "sde-dpmsolver++"}
SIDE = 40  # of the cube of values


def exact_samples(
    name: str,
    steps: int,
    s: float,
    prediction: str = "v_prediction",
    count: int = 1,
    antithetic: bool = False,
    side: int = SIDE,
    seed: int = 0,
    **options,
) -> torch.Tensor:
    """`count` samples `(count, 1, side, side, side)` by the noise of generation."""
    objective = NoiseObjective(prediction=prediction, zero_terminal_snr=prediction != "epsilon")
    schedule, sampler = NoiseSchedule(objective), make_sampler(name, objective.scheduler(), **options)
    sampler.set_timesteps(steps)
    noise, shape = SampleNoise(seed, ["x"] * count, list(range(count)), antithetic), (1, side, side, side)
    drawn = name == "DDPMScheduler" or "algorithm_type" in options
    x = noise.start(shape)
    for t in sampler.timesteps:
        index = network_timestep(sampler, t).round().long().reshape(1)
        signal, level = schedule.levels(index)
        clean = signal * s**2 / (signal**2 * s**2 + level**2) * x  # posterior mean of a Gaussian
        target = schedule.target(clean, (x - signal * clean) / level, index)
        x = sampler.step(target, t, x, **(noise.step(sampler, shape) if drawn else {})).prev_sample
    return x


def sampled_std(name: str, steps: int, s: float, prediction: str = "v_prediction", **options) -> float:
    """Standard deviation of the values of one sample."""
    return exact_samples(name, steps, s, prediction, **options).std().item()


def exact_std(name: str, steps: int, s: float, prediction: str = "v_prediction", **options) -> float:
    """Standard deviation by the recursion of the solver, every factor written out."""
    signal, noise = solver_levels(name, steps, prediction, **options)
    if name == "FlowMatchEulerDiscreteScheduler":
        return _euler(signal, noise, s)
    if name == "DDPMScheduler":
        return _ancestral(signal, noise, s)
    if name == "DDIMScheduler":
        return _ddim(signal, noise, s)
    return _dpm_solver(signal, noise, s, stochastic="algorithm_type" in options)


def solver_levels(name: str, steps: int, prediction: str, **options) -> tuple[list[float], list[float]]:
    """Signal and noise at every step of a sampler, and at its end."""
    if name == "FlowMatchEulerDiscreteScheduler":
        noise = [1.0 - i / steps for i in range(steps + 1)]
        return [1.0 - n for n in noise], noise
    objective = NoiseObjective(prediction=prediction)
    schedule, sampler = NoiseSchedule(objective), make_sampler(name, objective.scheduler(), **options)
    sampler.set_timesteps(steps)
    index = network_timestep(sampler, sampler.timesteps).long()
    assert len(index) == steps
    end = [1.0, 0.0] if name != "DDIMScheduler" else [schedule.signal[0].item(), schedule.noise[0].item()]
    signal, noise = [*schedule.signal[index].tolist(), end[0]], [*schedule.noise[index].tolist(), end[1]]
    return ([1.0 - n for n in noise] if prediction == "flow" else signal), noise


def _share(signal: float, noise: float, s: float) -> float:
    """Posterior mean of a Gaussian over the noisy value."""
    return signal * s**2 / (signal**2 * s**2 + noise**2)


def _euler(signal: list[float], noise: list[float], s: float) -> float:
    """x' = x + (σ' - σ) v with the velocity v = E[ε - x_0 | x]."""
    factor = 1.0
    for i in range(len(noise) - 1):
        clean = _share(signal[i], noise[i], s)
        factor *= 1.0 + (noise[i + 1] - noise[i]) * ((1.0 - signal[i] * clean) / noise[i] - clean)
    return abs(factor)


def _ddim(signal: list[float], noise: list[float], s: float) -> float:
    """x' = (signal' a + noise' (1 - signal a) / noise) x with a = clean over x."""
    factor = 1.0
    for i in range(len(noise) - 1):
        clean = _share(signal[i], noise[i], s)
        factor *= signal[i + 1] * clean + noise[i + 1] * (1.0 - signal[i] * clean) / noise[i]
    return abs(factor)


def _ancestral(signal: list[float], noise: list[float], s: float) -> float:
    """The posterior q(x_t' | x_t, x_0) of Ho et al. 2020, from one step of the sampler to its next, x_0 estimated."""
    variance, steps = 1.0, len(noise) - 1
    for i in range(steps):
        a, b = signal[i] ** 2, signal[i + 1] ** 2
        kept = a / b  # alpha of this stride
        of_clean = math.sqrt(b) * (1.0 - kept) / (1.0 - a)
        of_noisy = math.sqrt(kept) * (1.0 - b) / (1.0 - a)
        gain = of_clean * _share(signal[i], noise[i], s) + of_noisy
        added = (1.0 - b) / (1.0 - a) * (1.0 - kept) if i < steps - 1 else 0.0
        variance = gain**2 * variance + added
    return math.sqrt(variance)


def _dpm_solver(signal: list[float], noise: list[float], s: float, stochastic: bool) -> float:
    """DPM-Solver++(2M), algorithm 2 of Lu et al. 2022, and its stochastic form, SDE-DPM-Solver++(2M).

    The first step and the last, which ends without noise, are of first order.
    """
    steps = len(noise) - 1
    # diffusers takes 2^-24 for the signal's share of pure noise
    ratio = [math.log(max(a, 2**-12) / b) if b > 0 else math.inf for a, b in zip(signal, noise, strict=True)]
    x, before = np.eye(steps + 1)[0], None  # coefficients of the initial noise and of that of every step
    for i in range(steps):
        clean, step = _share(signal[i], noise[i], s) * x, ratio[i + 1] - ratio[i]
        second = 0 < i < steps - 1
        slope = (clean - before) * step / (ratio[i] - ratio[i - 1]) if second else 0.0
        kept = noise[i + 1] / noise[i] * (math.exp(-step) if stochastic else 1.0)
        gain = -math.expm1(-(2.0 if stochastic else 1.0) * step)
        x = kept * x + signal[i + 1] * gain * (clean + 0.5 * slope)
        if stochastic:
            x = x + noise[i + 1] * math.sqrt(gain) * np.eye(steps + 1)[i + 1]
        before = clean
    return float(np.linalg.norm(x))
