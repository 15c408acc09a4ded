"""Unknown pixels of the linear prior against conditioning of a Gaussian with its full covariance."""

import math

import pytest
import torch

from ddpm.conditioning.gaussian_fill import conditional_mean, fit_loadings
from ddpm.conditioning.linear_prior import LinearPrior

SHAPE, PIXELS, RANK = (2, 4, 4, 4), 8, 6


@pytest.fixture(scope="module")
def cases():
    """Smooth X-rays of few degrees of freedom and latents that depend on them linearly."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.nn.functional.interpolate(torch.randn(5, 1, 4, 4, generator=generator), (16, 16), mode="bicubic")
    scores = torch.randn(40, 5, generator=generator)
    noise = 0.02 * torch.randn(40, 1, 1, 16, 16, generator=generator)
    xrays = 0.5 + 0.1 * torch.einsum("nk,kchw->nchw", scores, patterns)[:, None] + noise
    return xrays, (scores @ torch.randn(5, 128, generator=generator)).view(40, *SHAPE)


@pytest.fixture(scope="module")
def prior(cases):
    return LinearPrior(SHAPE, pixels=PIXELS, rank=8, fill_rank=RANK).fit(*cases)


def hidden(xrays: torch.Tensor) -> torch.Tensor:
    holes = xrays.clone()
    holes[..., :6, :], holes[..., 10:] = math.nan, math.nan
    return holes


def test_the_fill_is_the_conditional_mean_of_the_gaussian(cases, prior):
    z = prior._standardised(prior._pool(hidden(cases[0]))).double()
    covariance = prior.fill_loadings.double() @ prior.fill_loadings.double().T
    covariance += prior.fill_noise.double() * torch.eye(PIXELS**2, dtype=torch.float64)
    filled = prior._features(hidden(cases[0]))
    for row, found in zip(z, filled, strict=True):
        unknown = row.isnan()
        assert 0 < unknown.sum() < len(row)
        weights = torch.linalg.solve(covariance[~unknown][:, ~unknown], row[~unknown])
        expected = covariance[unknown][:, ~unknown] @ weights
        torch.testing.assert_close(found[unknown].double(), expected, atol=1e-4, rtol=1e-3)
        assert torch.equal(found[~unknown], row[~unknown].float())


def test_the_gaussian_has_the_covariance_of_the_training_xrays(cases, prior):
    z = prior._features(cases[0])
    strong = torch.nn.functional.normalize(prior.fill_loadings[:, :5], dim=0)  # the others are noise
    modelled = prior.fill_loadings @ prior.fill_loadings.T + prior.fill_noise * torch.eye(PIXELS**2)
    measured = z.T @ z / (len(z) - 1)
    torch.testing.assert_close(strong.T @ modelled @ strong, strong.T @ measured @ strong, atol=1e-3, rtol=1e-3)
    assert torch.linalg.eigvalsh(measured)[-5:].sum() > 0.95 * measured.trace()


def test_a_known_xray_has_the_prior_of_a_model_without_fill(cases, prior):
    plain = LinearPrior(SHAPE, pixels=PIXELS, rank=8).fit(*cases)
    index = torch.arange(len(cases[0]))
    assert torch.equal(prior(cases[0]), plain(cases[0]))
    assert torch.equal(prior(cases[0], index), plain(cases[0], index))
    assert torch.equal(prior.distance(cases[0]), plain.distance(cases[0]))


def test_a_model_without_fill_takes_unknown_pixels_for_0(cases):
    plain = LinearPrior(SHAPE, pixels=PIXELS, rank=8).fit(*cases)
    torch.testing.assert_close(plain(hidden(cases[0])), plain(hidden(cases[0]).nan_to_num(0.0)))


def test_an_unknown_xray_has_the_training_mean(cases, prior):
    nothing = torch.full_like(cases[0][:3], math.nan)
    c, *size = SHAPE
    torch.testing.assert_close(prior(nothing), prior.mean.view(1, c, *size).expand(3, -1, -1, -1, -1))
    assert (prior.distance(nothing) == 0).all()


def test_the_fill_brings_the_prior_near_that_of_the_whole_xray(cases, prior):
    whole, near = prior(cases[0]), prior(hidden(cases[0]))
    plain = LinearPrior(SHAPE, pixels=PIXELS, rank=8).fit(*cases)
    assert (near - whole).square().mean() < 0.2 * (plain(hidden(cases[0])) - whole).square().mean()
    assert prior.distance(hidden(cases[0])).max() < 1.5


def test_xrays_with_unknown_pixels_can_be_fitted(cases):
    xrays = cases[0].clone()
    xrays[::3] = hidden(xrays[::3])
    xrays[..., :2, :2] = math.nan  # never known
    prior = LinearPrior(SHAPE, pixels=PIXELS, rank=8, fill_rank=RANK).fit(xrays, cases[1])
    left_out = prior(xrays, torch.arange(len(xrays)))
    assert prior(xrays).isfinite().all() and left_out.isfinite().all()
    assert (left_out - cases[1]).square().mean() < 0.6 * cases[1].var()


def test_fewer_cases_than_components():
    z = torch.randn(3, 20, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(z.T @ z / 2)
    loadings, noise = fit_loadings(values.clamp_min(0.0), vectors, 30)
    assert loadings.shape == (20, 30) and (loadings[:, 20:] == 0).all() and noise > 0
    z[0, 5:] = math.nan
    assert conditional_mean(z.float(), loadings, noise).isfinite().all()


def test_a_folder_keeps_the_gaussian(cases, prior, tmp_path):
    prior.save_pretrained(tmp_path)
    assert torch.equal(LinearPrior.from_pretrained(tmp_path)(hidden(cases[0])), prior(hidden(cases[0])))
