"""Samplers against data whose exact denoiser is known: N(0, s²) must come out with standard deviation s."""

import pytest
import torch

from ddpm.objective import NoiseObjective, NoiseSchedule
from ddpm.samplers import FLOW_SAMPLERS, SAMPLERS, make_sampler, network_timestep


def sampled_std(name: str, steps: int, s: float, prediction: str = "v_prediction") -> float:
    objective = NoiseObjective(prediction=prediction, zero_terminal_snr=prediction != "epsilon")
    schedule, sampler = NoiseSchedule(objective), make_sampler(name, objective.scheduler())
    sampler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 40, 40, 40, generator=generator)
    options = {"generator": generator} if name in ("DDPMScheduler", "DDIMScheduler") else {}
    for t in sampler.timesteps:
        index = network_timestep(sampler, t).round().long().reshape(1)
        signal, noise = schedule.levels(index)
        clean = signal * s**2 / (signal**2 * s**2 + noise**2) * x  # posterior mean of a Gaussian
        eps = (x - signal * clean) / noise
        x = sampler.step(schedule.target(clean, eps, index), t, x, **options).prev_sample
    return x.std().item()


DIFFUSION_SAMPLERS = [name for name in SAMPLERS if name != "FlowMatchEulerDiscreteScheduler"]


@pytest.mark.parametrize("name", DIFFUSION_SAMPLERS)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_a_hundred_steps_give_the_true_spread(name, s):
    assert sampled_std(name, 100, s) == pytest.approx(s, rel=0.06)


@pytest.mark.parametrize("name", FLOW_SAMPLERS)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_a_hundred_steps_of_a_flow_give_the_true_spread(name, s):
    assert sampled_std(name, 100, s, "flow") == pytest.approx(s, rel=0.06)


def test_few_euler_steps_follow_the_exact_recursion():
    """Euler on the flow of a Gaussian is linear: x' = (1 + (σ' - σ) v) x with the velocity v = E[ε - x_0 | x] / x."""
    s, steps = 0.5, 6
    sampler = make_sampler("FlowMatchEulerDiscreteScheduler", NoiseObjective(prediction="flow").scheduler())
    sampler.set_timesteps(steps)
    sigmas, factor = sampler.sigmas.tolist(), 1.0
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        variance = (1 - now) ** 2 * s**2 + now**2
        factor *= 1 + (then - now) * (now - (1 - now) * s**2) / variance
    found = sampled_std("FlowMatchEulerDiscreteScheduler", steps, s, "flow")
    assert found == pytest.approx(abs(factor), rel=0.02)


def test_samplers_that_cannot_follow_the_process_are_refused():
    with pytest.raises(ValueError, match="DDIMScheduler.*prediction=flow"):
        make_sampler("DDIMScheduler", NoiseObjective(prediction="flow").scheduler())
    with pytest.raises(ValueError, match="FlowMatchEuler.*v_prediction"):
        make_sampler("FlowMatchEulerDiscreteScheduler", NoiseObjective().scheduler())


def test_few_ddim_steps_follow_the_exact_recursion():
    """DDIM on a Gaussian is linear: x_{t'} = (signal' a + noise' (1 - signal a)/noise) x_t, a = clean over x."""
    s, steps = 0.5, 8
    objective = NoiseObjective()
    schedule, sampler = NoiseSchedule(objective), make_sampler("DDIMScheduler", objective.scheduler())
    sampler.set_timesteps(steps)
    times = sampler.timesteps.tolist()
    factor = 1.0
    for now, then in zip(times, [*times[1:], None], strict=True):
        signal, noise = schedule.signal[now].item(), schedule.noise[now].item()
        a = signal * s**2 / (signal**2 * s**2 + noise**2)
        end = sampler.final_alpha_cumprod.sqrt().item()
        signal2 = end if then is None else schedule.signal[then].item()
        noise2 = (1 - signal2**2) ** 0.5
        factor *= signal2 * a + noise2 * (1 - signal * a) / noise
    assert sampled_std("DDIMScheduler", steps, s) == pytest.approx(abs(factor), rel=0.02)


def test_latents_of_unit_variance_are_not_clipped():
    assert sampled_std("DDPMScheduler", 100, 1.0) > 0.95


def test_unknown_sampler_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="sampler.scheduler=torch.hub.load.*DDIMScheduler"):
        make_sampler("torch.hub.load", NoiseObjective().scheduler())
