"""Algebra of the noise objective, and what it refuses."""

import pytest
import torch

from ddpm.denoiser.preconditioning import GaussianPreconditioning
from ddpm.diffusion.noise_schedule import MAX_WEIGHT, NoiseSchedule
from ddpm.diffusion.objective import PREDICTIONS, NoiseObjective
from ddpm.losses.loss_type import POINTWISE

T = torch.tensor([0, 1, 250, 700, 990])


def schedule(**options) -> NoiseSchedule:
    return NoiseSchedule(NoiseObjective(**{"zero_terminal_snr": False, **options}))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_exact_target_implies_the_clean_latents(prediction):
    s = schedule(prediction=prediction)
    clean, eps = torch.randn(2, 5, 2, 3, 3, 3).double()
    noisy = s.add_noise(clean, eps, T)
    assert torch.allclose(s.clean(s.target(clean, eps, T), noisy, T), clean, atol=1e-4)


def test_variance_is_preserved():
    s = schedule()
    assert torch.allclose(s.signal**2 + s.noise**2, torch.ones(1000), atol=1e-6)


def test_a_flow_is_a_straight_line_that_ends_on_noise():
    s = schedule(prediction="flow")
    clean, eps = torch.randn(2, 1, 2, 3, 3, 3)
    assert torch.equal(s.add_noise(clean, eps, torch.tensor([999])), eps)
    assert torch.allclose(s.add_noise(clean, eps, torch.tensor([499])), (clean + eps) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="min_snr_gamma=5.*flow"):
        NoiseObjective(prediction="flow", min_snr_gamma=5.0)


def test_noise_agrees_with_diffusers():
    objective = NoiseObjective(prediction="v_prediction")
    clean, eps = torch.randn(2, 5, 2, 3, 3, 3)
    ours, theirs = NoiseSchedule(objective), objective.scheduler()
    assert torch.allclose(ours.add_noise(clean, eps, T), theirs.add_noise(clean, eps, T), atol=1e-6)
    assert torch.allclose(ours.target(clean, eps, T), theirs.get_velocity(clean, eps, T), atol=1e-6)


def test_zero_terminal_snr_ends_on_pure_noise_and_refuses_epsilon():
    assert NoiseSchedule(NoiseObjective(zero_terminal_snr=True)).signal[-1] < 1e-4
    with pytest.raises(ValueError, match="zero_terminal_snr.*epsilon"):
        NoiseObjective(prediction="epsilon", zero_terminal_snr=True)
    with pytest.raises(ValueError, match="min_snr_gamma=5.*zero_terminal_snr"):
        NoiseObjective(zero_terminal_snr=True, min_snr_gamma=5.0)
    with pytest.raises(ValueError, match="prediction=x"):
        NoiseObjective(prediction="x")


@pytest.mark.parametrize("prediction", ("epsilon", "v_prediction", "sample"))
def test_min_snr_weight_is_one_error_in_clean_latents_for_all_targets(prediction):
    """An error δ in x_0 costs min(SNR, γ)·δ² whatever is predicted."""
    s = schedule(prediction=prediction, min_snr_gamma=5.0)
    clean, eps = torch.randn(2, 5, 2, 3, 3, 3)
    noisy = s.add_noise(clean, eps, T)
    wrong = clean + 0.1
    wrong_eps = (noisy - s.levels(T)[0] * wrong) / s.levels(T)[1]
    error = (s.target(wrong, wrong_eps, T) - s.target(clean, eps, T)).square().mean(dim=(1, 2, 3, 4)) * s.weight(T)
    snr = (s.signal[T] / s.noise[T]) ** 2
    assert torch.allclose(error, 0.01 * snr.clamp(max=5.0), rtol=2e-2)


def test_snr_weight_is_in_units_of_the_posterior_variance():
    deviation, steps = 0.45, torch.tensor([999, 700, 400, 200, 100, 50, 0])
    weight = schedule(prediction="sample", zero_terminal_snr=True, snr_weight=deviation**2).weight(steps)
    preconditioning = GaussianPreconditioning(1000, "squaredcos_cap_v2", zero_terminal_snr=True)
    nothing = torch.zeros(len(steps), 1, 1, 1, 1)
    _, uncertainty = preconditioning(nothing, nothing, torch.full_like(nothing, deviation), steps, None)
    expected = (deviation / uncertainty.flatten()).square()
    assert torch.allclose(weight, expected.clamp(max=MAX_WEIGHT), rtol=1e-4)
    assert weight[0] == 1.0 and weight[-1] == MAX_WEIGHT < expected[-1]
    assert torch.equal(schedule(prediction="sample").weight(steps), torch.ones(len(steps)))
    refused = [{"snr_weight": value} for value in (-0.1, 0.0, float("nan"), float("inf"))]
    refused += [{"prediction": "v_prediction"}, {"min_snr_gamma": 5.0, "zero_terminal_snr": False}]
    for other in refused:
        with pytest.raises(ValueError, match="model.objective.snr_weight="):
            NoiseObjective(**{"prediction": "sample", "snr_weight": 0.2, **other})


def test_timestep_power_favours_noise():
    def mean(power: float) -> float:
        generator, objective = torch.Generator().manual_seed(0), NoiseObjective(timestep_power=power)
        return sum(objective.draw_timestep(generator) for _ in range(4000)) / 4000

    assert mean(1.0) == pytest.approx(500, abs=20)
    assert mean(2.0) == pytest.approx(667, abs=20)  # the mean of u^(1/2) is 2/3


def test_pure_noise_warmup_precedes_all_timesteps():
    generator = torch.Generator().manual_seed(0)
    objective, plain = NoiseObjective(timestep_power=2.0, pure_noise_warmup=0.4), NoiseObjective(timestep_power=2.0)
    assert {objective.draw_timestep(generator, progress) for progress in (0.0, 0.2, 0.399)} == {999}
    for progress in (0.4, 0.9, 1.0):
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        assert objective.draw_timestep(generators[0], progress) == plain.draw_timestep(generators[1], progress)


def test_losses_by_name():
    a, b = torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0])
    expected = {"l1": [0.5, 3.0], "l2": [0.25, 9.0], "huber": [0.125, 2.5]}
    assert {name: loss(a, b, reduction="none").tolist() for name, loss in POINTWISE.items()} == expected
