"""Linear priors of subsets of the views: each is that of a model of these views alone."""

import pytest
import torch

from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.view_priors import ViewPriors

SHAPE = (2, 4, 4, 4)
OPTIONS = {"pixels": 8, "rank": 12, "deviation": True, "fill_rank": 4, "by_leverage": True}
SUBSETS = [[0], [1], [0, 1]]


@pytest.fixture(scope="module")
def cases() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    xrays = torch.rand(24, 2, 1, 16, 16, generator=rng)
    mixing = torch.randn(512, 128, generator=rng)
    latents = (xrays.flatten(1) - 0.5) @ mixing / 4 + 0.3 * torch.randn(24, 128, generator=rng)
    return xrays, latents.view(-1, *SHAPE)


@pytest.fixture(scope="module")
def priors(cases) -> ViewPriors:
    return ViewPriors(SHAPE, 2, **OPTIONS).fit(*cases)


def only(xrays: torch.Tensor, kept: list[int]) -> torch.Tensor:
    shown = torch.zeros(2, dtype=torch.bool)
    shown[kept] = True
    return torch.where(shown[None, :, None, None, None], xrays, torch.nan)


@pytest.mark.parametrize("kept", SUBSETS)
def test_the_prior_of_present_views_is_that_of_a_model_of_these_views(priors, cases, kept):
    xrays, latents = cases
    alone = LinearPrior(SHAPE, len(kept), **OPTIONS).fit(xrays[:, kept], latents)
    index = torch.arange(len(xrays))
    for rows in (None, index):
        mean, std = priors.moments(only(xrays, kept), rows)
        assert torch.equal(mean, alone(xrays[:, kept], rows)) and torch.equal(
            std, alone.moments(xrays[:, kept], rows)[1]
        )
    assert torch.equal(priors.distance(only(xrays, kept)), alone.distance(xrays[:, kept]))


def test_a_batch_may_mix_patients_of_different_views(priors, cases):
    xrays, _ = cases
    mixed = torch.cat([only(xrays[i : i + 1], kept) for i, kept in enumerate(SUBSETS)])
    expected = torch.cat([priors(only(xrays[i : i + 1], kept)) for i, kept in enumerate(SUBSETS)])
    assert torch.allclose(priors(mixed), expected, atol=1e-5)


def test_both_views_leave_less_unexplained_than_either(priors, cases):
    assert priors.priors[2].std.square().mean() < min(priors.priors[k].std.square().mean() for k in (0, 1))


def test_it_saves_and_hides_all_priors(priors, cases, tmp_path):
    priors.save_pretrained(tmp_path)
    again = ViewPriors.from_pretrained(tmp_path)
    assert torch.equal(again(cases[0]), priors(cases[0])) and not again.fitted
    again.hide(True)
    assert not again(cases[0]).any() and again.config.hidden


def test_priors_of_an_earlier_version_keep_one_deviation_for_all_xrays(priors, cases, tmp_path):
    old = ViewPriors(SHAPE, 2, **OPTIONS | {"by_leverage": False}).fit(*cases)
    resumed = ViewPriors(SHAPE, 2, **OPTIONS).fit(*cases)
    resumed.load_state_dict(old.state_dict())
    resumed.save_pretrained(tmp_path)
    for prior in (old, resumed, ViewPriors.from_pretrained(tmp_path)):
        for kept in SUBSETS:
            std = prior.moments(only(cases[0], kept))[1]
            assert torch.equal(std, old.moments(only(cases[0], kept))[1]) and torch.equal(std[0], std[-1])


def test_other_numbers_of_views_are_refused(cases):
    with pytest.raises(ValueError, match="X-rays of 1 views, the linear priors were made for 2"):
        ViewPriors(SHAPE, 2, **OPTIONS).fit(cases[0][:, :1], cases[1])
