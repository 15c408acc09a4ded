"""The lung guide on a linear world: it finds the planted air, keeps to the bounds, and leaves what is in them."""

import pytest
import torch
from guide_world import EXTENT, PIXELS, POSE, SHAPE, cases, planted

from ddpm.consistency.lung_guide import AIR_OF_LUNG, LEAST_NOISE, LungGuide

CLEAN = 0.3 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(5))


def depth(guide: LungGuide, clean: torch.Tensor) -> torch.Tensor:
    """mm of lung of each sample along the rays `(b, p)`; the whole volume is body."""
    towards = guide.within_bounds(torch.zeros(PIXELS, PIXELS), torch.zeros(PIXELS, PIXELS), POSE, EXTENT)
    return towards.rays.project(guide.decoder(clean).flatten(1)) / AIR_OF_LUNG


def bounds(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return low.view(PIXELS, PIXELS), high.view(PIXELS, PIXELS)


def test_the_planted_air_and_the_error_of_the_prediction_are_found():
    truth = planted()
    found = LungGuide(SHAPE, side=1).fit(cases(truth, 6))
    torch.testing.assert_close(found.decoder(CLEAN), truth.decoder(CLEAN), atol=1e-2, rtol=0)
    torch.testing.assert_close(found.deviation.flatten(), torch.tensor([0.1, 0.2]), rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="no cases"):
        LungGuide(SHAPE).fit([])


def test_latents_within_the_bounds_stay_bit_by_bit():
    guide = planted()
    own = depth(guide, CLEAN[:1])[0]
    update = guide.within_bounds(*bounds(own - 1.0, own + 1.0), POSE, EXTENT).update(CLEAN[:1], 0.0, 1.0)
    assert not update.change.any() and float(update.before) == 0.0


@pytest.mark.parametrize("shift", [15.0, -15.0])
def test_the_depth_moves_towards_the_nearer_bound_and_not_beyond(shift):
    guide = planted(3.0)
    own = depth(guide, CLEAN[:1])[0]
    seen = own > 20.0  # rays through the body
    low, high = (own + shift, own + shift + 5.0) if shift > 0 else (own + shift - 5.0, own + shift)
    towards = guide.within_bounds(
        *bounds(torch.where(seen, low, torch.nan), torch.where(seen, high, torch.nan)), POSE, EXTENT
    )
    update = towards.update(CLEAN[:1], 0.0, 1.0)
    moved = (depth(guide, CLEAN[:1] + update.change)[0] - own)[seen]
    assert float(update.after) < 0.1 * float(update.before)
    assert moved.mean() == pytest.approx(shift, abs=3.0)


def test_pixels_that_show_nothing_and_other_samples_change_nothing():
    guide = planted()
    own = depth(guide, CLEAN)
    low = own[0] + 20.0
    low[: len(low) // 2] = torch.nan
    towards = guide.within_bounds(*bounds(low, low + 5.0), POSE, EXTENT)
    together, alone = towards.update(CLEAN, 0.0, 1.0).change, towards.update(CLEAN[:1], 0.0, 1.0).change
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-5)
    nothing = guide.within_bounds(*bounds(torch.full_like(low, torch.nan), low), POSE, EXTENT).update(CLEAN, 0.0, 1.0)
    assert not nothing.change.any()
    upper = depth(guide, CLEAN[:1] + alone)[0] - own[0]  # row 0 is superior
    assert upper[-PIXELS * 4 : -PIXELS * 2].mean() > 5.0 > upper[PIXELS * 2 : PIXELS * 4].abs().max()


def test_the_change_falls_with_the_noise_of_the_sampler_and_the_last_steps_are_free():
    guide = planted()
    low = depth(guide, CLEAN[:1])[0] + 20.0
    towards, sizes = guide.within_bounds(*bounds(low, low + 5.0), POSE, EXTENT), []
    for noise in (1.0, LEAST_NOISE + 0.01, LEAST_NOISE - 0.01):
        sizes.append(float(towards.update(CLEAN[:1], 1.0 - noise, noise).change.abs().max()))
    assert sizes[0] > sizes[1] > sizes[2] == 0.0
