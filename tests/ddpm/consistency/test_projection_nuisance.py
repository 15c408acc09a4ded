"""The Gaussian of the nuisance: precision and covariance are inverse, and chi² of its own draws is 1."""

import torch

from ddpm.consistency.projection_nuisance import ProjectionNuisance

VIEWS, PIXELS = 2, 8
LENGTH = VIEWS * PIXELS**2


def cases(n: int, seed: int = 0, noise: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """X-rays and line integrals L with `gain x + offset - m = L + e`; gain 5, offset 0.3, m a ramp, e of rank 2."""
    generator = torch.Generator().manual_seed(seed)
    integrals = 2.5 + torch.randn(n, LENGTH, generator=generator)
    modes = torch.randn(2, LENGTH, generator=torch.Generator().manual_seed(7)) * 0.04
    e = torch.randn(n, 2, generator=generator) @ modes + noise * torch.randn(n, LENGTH, generator=generator)
    gain = 5.0 + 0.2 * torch.randn(n, 1, generator=generator)
    return (integrals + e + 0.05 * torch.sin(torch.arange(LENGTH) / 3.0) - 0.3) / gain, integrals


def fitted(n: int = 200) -> ProjectionNuisance:
    return ProjectionNuisance(VIEWS, PIXELS, rank=2).fit(*cases(n))


def test_precision_is_the_inverse_of_the_covariance():
    measured = fitted().of(cases(1, seed=1)[0][0])
    images = torch.randn(3, LENGTH)
    torch.testing.assert_close(measured.precision(measured.covariance(images)), images, rtol=5e-3, atol=5e-3)


def test_chi2_is_one_for_true_integrals_and_large_for_those_of_another_case():
    nuisance, (xrays, integrals) = fitted(), cases(40, seed=1)
    measured = [nuisance.of(x) for x in xrays]
    own = torch.cat([m.chi2(m.residual(true[None])) for m, true in zip(measured, integrals, strict=True)])
    other = torch.cat([m.chi2(m.residual(true[None])) for m, true in zip(measured, integrals.roll(1, 0), strict=True)])
    assert 0.85 < own.mean() < 1.2 and other.min() > 20.0 * own.max()


def test_an_affine_change_of_the_grey_scale_within_its_spread_costs_little():
    nuisance, (xrays, integrals) = fitted(), cases(20, seed=1)
    changed = [nuisance.of(1.04 * x) for x in xrays]
    chi2 = torch.cat([m.chi2(m.residual(true[None])) for m, true in zip(changed, integrals, strict=True)])
    assert chi2.mean() < 1.3


def test_unknown_pixels_take_no_part():
    nuisance, (xrays, integrals) = fitted(), cases(1, seed=1)
    hidden = xrays[0].clone()
    hidden[: LENGTH // 4] = float("nan")
    measured, wrong = nuisance.of(hidden), integrals.clone()
    wrong[:, : LENGTH // 4] += 100.0
    torch.testing.assert_close(measured.chi2(measured.residual(wrong)), measured.chi2(measured.residual(integrals)))
    images = torch.randn(2, LENGTH) * measured.known
    torch.testing.assert_close(measured.precision(measured.covariance(images)), images, rtol=5e-3, atol=5e-3)
    assert 0.5 < measured.chi2(measured.residual(integrals)) < 1.6
