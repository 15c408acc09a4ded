"""Samplers against data whose exact denoiser is known: N(0, s²) must come out with standard deviation s."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from exact_recursions import SDE, exact_std, sampled_std

from common.errors import UserError
from ddpm.diffusion.noise_schedule import NoiseSchedule
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.samplers import (
    FLOW_SAMPLERS,
    SAMPLERS,
    clean_latents,
    make_sampler,
    network_timestep,
    noise_levels,
    prediction_of,
)
from ddpm.diffusion.solvers import FIRST, LAST

DIFFUSION_SAMPLERS = [name for name in SAMPLERS if name != "FlowMatchEulerDiscreteScheduler"]


@pytest.mark.parametrize("name", DIFFUSION_SAMPLERS)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_a_hundred_steps_give_the_true_std(name, s):
    assert sampled_std(name, 100, s) == pytest.approx(s, rel=0.06)


@pytest.mark.parametrize("name", FLOW_SAMPLERS)
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_a_hundred_steps_of_a_flow_give_the_true_std(name, s):
    assert sampled_std(name, 100, s, "flow") == pytest.approx(s, rel=0.06)


@pytest.mark.parametrize("steps", [4, 6, 12, 20])
def test_few_euler_steps_follow_the_exact_recursion(steps):
    found = sampled_std("FlowMatchEulerDiscreteScheduler", steps, 0.5, "flow")
    assert found == pytest.approx(exact_std("FlowMatchEulerDiscreteScheduler", steps, 0.5, "flow"), rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12, 20, 1000])
def test_euler_steps_of_a_flow_are_equal_and_as_many_as_asked_for(steps):
    objective = NoiseObjective(prediction="flow")
    sampler = make_sampler("FlowMatchEulerDiscreteScheduler", objective.scheduler())
    sampler.set_timesteps(steps)
    assert len(sampler.timesteps) == steps and sampler.sigmas[0] == 1.0 and sampler.sigmas[-1] == 0.0
    torch.testing.assert_close(-sampler.sigmas.diff(), torch.full((steps,), 1.0 / steps), atol=1e-6, rtol=0)
    known = network_timestep(sampler, sampler.timesteps)  # the network gets the noise level of the sampler
    assert known.min() >= -1e-3 and known.max() == 999
    torch.testing.assert_close((known + 1) / 1000, sampler.sigmas[:-1])
    whole = (known.round() - known).abs() < 1e-3
    _, noise = NoiseSchedule(objective).levels(known[whole].round().long())
    torch.testing.assert_close(noise.flatten(), sampler.sigmas[:-1][whole])


@pytest.mark.parametrize("steps", [0, 1001])
def test_more_steps_of_a_flow_than_there_are_noise_levels_are_refused(steps):
    sampler = make_sampler("FlowMatchEulerDiscreteScheduler", NoiseObjective(prediction="flow").scheduler())
    with pytest.raises(UserError, match=f"sampler.steps={steps}: give 1 to 1000"):
        sampler.set_timesteps(steps)


def test_samplers_that_cannot_follow_the_process_are_refused():
    with pytest.raises(ValueError, match="DDIMScheduler.*prediction=flow"):
        make_sampler("DDIMScheduler", NoiseObjective(prediction="flow").scheduler())
    with pytest.raises(ValueError, match="FlowMatchEuler.*v_prediction"):
        make_sampler("FlowMatchEulerDiscreteScheduler", NoiseObjective().scheduler())


@pytest.mark.parametrize("steps", [4, 8, 12, 20])
def test_few_ddim_steps_follow_the_exact_recursion(steps):
    found = sampled_std("DDIMScheduler", steps, 0.5)
    assert found == pytest.approx(exact_std("DDIMScheduler", steps, 0.5), rel=0.02)


@pytest.mark.parametrize("steps", [4, 12, 20])
@pytest.mark.parametrize("s", [0.3, 1.0])
@pytest.mark.parametrize(
    ("prediction", "options"),
    [
        ("v_prediction", {"spacing": "trailing"}),
        *((prediction, {"spacing": "log_snr"}) for prediction in ("v_prediction", "sample", "flow")),
        ("sample", SDE),
    ],
)
def test_dpm_solver_follows_the_exact_recursion(steps, s, prediction, options):
    found = sampled_std("DPMSolverMultistepScheduler", steps, s, prediction, **options)
    assert found == pytest.approx(exact_std("DPMSolverMultistepScheduler", steps, s, prediction, **options), rel=0.02)


@pytest.mark.parametrize("steps", [4, 12, 20, 50])
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_ancestral_steps_follow_the_exact_recursion_of_the_variance(steps, s):
    found = sampled_std("DDPMScheduler", steps, s)
    assert found == pytest.approx(exact_std("DDPMScheduler", steps, s), rel=0.02)


@pytest.mark.parametrize("steps", [10, 12, 20, 100])
@pytest.mark.parametrize("s", [0.05, 0.1, 0.3, 0.5, 1.0])
def test_equal_steps_of_log_snr_keep_a_small_std(steps, s):
    assert sampled_std("DPMSolverMultistepScheduler", steps, s, "sample", spacing="log_snr") == pytest.approx(
        s, rel=0.05
    )


@pytest.mark.parametrize("steps", [12, 20, 100])
@pytest.mark.parametrize("s", [0.05, 0.1, 0.3, 1.0])
def test_the_stochastic_solver_keeps_a_small_std(steps, s):
    assert sampled_std("DPMSolverMultistepScheduler", steps, s, "sample", **SDE) == pytest.approx(s, rel=0.06)


def test_equal_steps_of_time_reduce_a_small_std():
    """With an exact denoiser (docs/results/)."""
    assert sampled_std("DPMSolverMultistepScheduler", 12, 0.1, "sample") < 0.07


@pytest.mark.parametrize("prediction", ["v_prediction", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 4, 12, 20, 400])
def test_the_grid_falls_from_pure_noise_and_is_even_in_log_snr(prediction, steps):
    objective = NoiseObjective(prediction=prediction)
    sampler = make_sampler("DPMSolverMultistepScheduler", objective.scheduler(), spacing="log_snr")
    sampler.set_timesteps(steps)
    times = sampler.timesteps
    assert (times[1:] < times[:-1]).all() and len(times) <= steps and times[0] == 999
    index = network_timestep(sampler, times).long()
    assert index.min() >= 0 and index.max() <= 999
    if 4 <= steps <= 20:
        schedule = NoiseSchedule(objective)
        ratio = (schedule.signal[index[1:]] / schedule.noise[index[1:]]).log()
        assert ratio[0] == pytest.approx(FIRST, abs=0.02) and ratio[-1] == pytest.approx(LAST, abs=0.5)
        gaps = ratio.diff()
        assert gaps[:-1].max() - gaps[:-1].min() < 0.2


def test_a_spacing_that_a_sampler_cannot_take_is_refused():
    with pytest.raises(ValueError, match="sampler.spacing=log_snr with DDIMScheduler"):
        make_sampler("DDIMScheduler", NoiseObjective().scheduler(), spacing="log_snr")
    with pytest.raises(ValueError, match="sampler.spacing=karras"):
        make_sampler("DPMSolverMultistepScheduler", NoiseObjective().scheduler(), spacing="karras")


def test_unknown_sampler_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="sampler.scheduler=torch.hub.load.*DDIMScheduler"):
        make_sampler("torch.hub.load", NoiseObjective().scheduler())


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_exact_prediction_implies_the_clean_latents(kind, share):
    """The exact prediction of each kind for noisy latents implies x_0."""
    clean, noise = torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
    if kind == "flow":
        scheduler = make_sampler("FlowMatchEulerDiscreteScheduler", FlowMatchEulerDiscreteScheduler())
        timestep = share * scheduler.config.num_train_timesteps
        noisy, prediction = (1 - share) * clean + share * noise, noise - clean
    else:
        training = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=kind)
        scheduler, timestep = make_sampler("DPMSolverMultistepScheduler", training), int(share * 1000)
        kept = training.alphas_cumprod[timestep]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        prediction = {"sample": clean, "epsilon": noise, "v_prediction": velocity}[kind]
    torch.testing.assert_close(clean_latents(scheduler, prediction, timestep, noisy), clean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(prediction_of(scheduler, clean, timestep, noisy), prediction, atol=1e-3, rtol=1e-3)
    changed = clean + 1.0
    implied = clean_latents(scheduler, prediction_of(scheduler, changed, timestep, noisy), timestep, noisy)
    torch.testing.assert_close(implied, changed, atol=1e-3, rtol=1e-3)


def test_the_last_timestep_has_the_levels_of_training():
    """The cosine schedule leaves a signal² of 2.4e-9 there; with zero terminal SNR the signal is small, not 0."""
    objective = NoiseObjective(prediction="epsilon", zero_terminal_snr=False)
    expected = NoiseSchedule(objective).levels(torch.tensor([999]))
    assert 0.0 < float(expected[0]) < 1e-4
    for name in DIFFUSION_SAMPLERS:
        found = noise_levels(make_sampler(name, objective.scheduler()), 999)
        assert found == pytest.approx([float(level) for level in expected], rel=1e-5)
        signal, noise = noise_levels(make_sampler(name, NoiseObjective().scheduler()), 999)
        assert 0.0 < signal < 1e-3 and noise == pytest.approx(1.0)


@pytest.mark.parametrize("clipped", [False, True])
def test_latents_are_clipped_on_request(clipped):
    """Latents of `latent_scaling=range` are bounded, standardised ones are not."""
    sampler = make_sampler("DDPMScheduler", NoiseObjective().scheduler(), **({"clip_sample": True} if clipped else {}))
    sampler.set_timesteps(2)
    step = sampler.step(torch.full((1, 4), 3.0), sampler.timesteps[0], torch.full((1, 4), -9.0))
    assert (step.pred_original_sample.abs().max() <= 1.0) == clipped
