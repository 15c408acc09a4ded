"""The proximal update against the closed form of a Gaussian posterior, and its stop."""

import torch

from ddpm.consistency.projection_nuisance import ProjectionNuisance
from ddpm.consistency.proximal_update import proximal_update

P, N = 16, 30  # pixels and latents


def parts(seed: int = 0):
    """A measurement, its noise as a dense matrix, a linear map and a covariance of latents."""
    generator = torch.Generator().manual_seed(seed)
    nuisance = ProjectionNuisance(1, 4, rank=2).double()
    nuisance.loadings.copy_(torch.randn(P, 2, generator=generator))
    nuisance.deviation.copy_(0.5 + torch.rand(P, generator=generator))
    nuisance.grey_factor.copy_(torch.tensor([[0.3, 0.0], [0.1, 0.2]]))
    measured = nuisance.of(torch.rand(P, generator=generator).double())
    noise = measured.covariance(torch.eye(P).double())
    jacobian, root = (torch.randn(P if i else N, N, generator=generator).double() for i in (1, 0))
    return measured, noise, jacobian, root @ root.T / N


def update(residual, level: float, iterations: int = 200):
    measured, _, jacobian, covariance = parts()
    maps = (lambda z: z @ jacobian.T, lambda y: y @ jacobian, lambda z: z @ covariance)
    return proximal_update(measured, residual, *maps, level, iterations, tolerance=1e-9)


def residuals(size: float) -> torch.Tensor:
    return size * torch.randn(3, P, generator=torch.Generator().manual_seed(1)).double()


def test_without_a_stop_it_is_the_mean_of_the_gaussian_posterior():
    _, noise, jacobian, covariance = parts()
    precision = jacobian.T @ noise.inverse() @ jacobian + covariance.inverse()
    expected = torch.linalg.solve(precision, jacobian.T @ noise.inverse() @ residuals(3.0).T).T
    torch.testing.assert_close(update(residuals(3.0), 0.0).change, expected, rtol=1e-5, atol=1e-6)


def test_it_goes_along_that_direction_until_chi2_is_at_the_level():
    measured, _, jacobian, _ = parts()
    residual = residuals(5.0)
    whole = update(residual, 0.0)
    level = float((whole.after.max() + measured.chi2(residual).min()) / 2.0)
    found = update(residual, level)
    chi2 = measured.chi2(residual - found.change @ jacobian.T)
    torch.testing.assert_close(chi2, torch.full((3,), level).double())
    torch.testing.assert_close(found.after, chi2)
    share = found.change.norm(dim=1) / whole.change.norm(dim=1)
    torch.testing.assert_close(found.change, share[:, None] * whole.change)
    assert (share < 1.0).all() and (share > 0.0).all()


def test_what_is_within_the_noise_stays():
    measured, *_ = parts()
    residual = residuals(0.5)
    assert not update(residual, float(measured.chi2(residual).max()) + 1e-6).change.any()


def test_few_iterations_never_pass_the_level():
    measured, _, jacobian, _ = parts()
    residual = residuals(5.0)
    for iterations in (1, 2, 4):
        found = update(residual, 1.0, iterations)
        chi2 = measured.chi2(residual - found.change @ jacobian.T)
        assert (chi2 >= 1.0 - 1e-6).all() and (chi2 < measured.chi2(residual)).all()
