"""The noise of samples: independent of the batch, opposite in pairs."""

import pytest
import torch

from common.seeding import normal
from ddpm.diffusion.objective import NoiseObjective
from ddpm.diffusion.sample_noise import SampleNoise, can_pair
from ddpm.diffusion.samplers import make_sampler

SHAPE = (2, 4, 4, 4)
SDE = {"algorithm_type": "sde-dpmsolver++", "spacing": "log_snr"}


def noise(numbers=(0, 1, 2), antithetic=True, seed=0, name="a") -> SampleNoise:
    return SampleNoise(seed, [name] * len(numbers), list(numbers), antithetic)


def sampler(name: str = "DPMSolverMultistepScheduler", **options):
    scheduler = make_sampler(name, NoiseObjective(prediction="sample").scheduler(), **options)
    scheduler.set_timesteps(6)
    return scheduler


def test_pairs_have_opposite_noise_in_every_part():
    pair, solver = noise(), sampler(**SDE)
    for drawn in (pair.start(SHAPE), *(pair.step(solver, SHAPE)["variance_noise"] for _ in range(3))):
        assert torch.equal(drawn[0], -drawn[1]) and not torch.equal(drawn[0].abs(), drawn[2].abs())
        assert drawn.std().item() == pytest.approx(1.0, abs=0.15)
    first, second = (noise().step(solver, SHAPE)["variance_noise"] for _ in range(2))
    again = noise()
    again.step(solver, SHAPE)
    assert torch.equal(first, second) and not torch.equal(again.step(solver, SHAPE)["variance_noise"], first)


def test_independent_samples_share_nothing():
    own = noise(antithetic=False).start(SHAPE)
    for i in range(3):
        for j in range(i):
            assert abs(torch.corrcoef(torch.stack([own[i].flatten(), own[j].flatten()]))[0, 1]) < 0.3
    assert torch.equal(own[::2], noise().start(SHAPE)[::2])  # the even of a pair is what it would be alone


def test_noise_depends_on_seed_xray_and_number_alone():
    whole = noise((0, 1, 2, 3)).start(SHAPE)
    assert torch.equal(noise((3, 1)).start(SHAPE), whole[[3, 1]])
    for other in (noise((2,), seed=1), noise((2,), name="b"), noise((4,))):
        assert not torch.equal(other.start(SHAPE)[0], whole[2])


def test_the_ancestral_sampler_gives_every_sample_noise_of_its_own_and_no_pairs():
    scheduler = sampler("DDPMScheduler")
    assert not can_pair(scheduler) and can_pair(sampler()) and can_pair(sampler(**SDE))
    first, second = noise((0, 1), antithetic=False).step(scheduler, SHAPE)["generator"]
    assert not torch.equal(torch.randn(100, generator=first), torch.randn(100, generator=second))
    with pytest.raises(ValueError, match="DDPMScheduler cannot draw opposite noise"):
        noise((0, 1)).step(scheduler, SHAPE)


def test_under_a_linear_denoiser_a_pair_ends_opposite():
    solver, pair = sampler(**SDE), noise((0, 1))
    latents = pair.start(SHAPE)
    for t in solver.timesteps:
        latents = solver.step(0.6 * latents, t, latents, **pair.step(solver, SHAPE)).prev_sample
    torch.testing.assert_close(latents[0], -latents[1])
    assert latents[0].abs().max() > 0.1


def test_a_negative_seed_is_not_taken_for_its_absolute_value():
    with pytest.raises(ValueError, match="seed=-1: give 0 or more"):
        noise(seed=-1)
    with pytest.raises(ValueError):
        normal((2,), (-1, 0))
