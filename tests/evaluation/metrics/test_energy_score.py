"""Energy score: closed form of a Gaussian, an independent implementation, invariances, propriety."""

from math import gamma, sqrt

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from evaluation.metrics.crps import crps, energy_score


def mean_score(samples: torch.Tensor, truths: torch.Tensor, antithetic: bool = False) -> float:
    return float(np.mean([energy_score(x, y, antithetic) for x, y in zip(samples, truths, strict=True)]))


@pytest.mark.parametrize("n", [1, 3, 20])
@pytest.mark.parametrize(("count", "antithetic"), [(2, False), (5, False), (4, True)])
def test_closed_form_of_a_gaussian(n, count, antithetic):
    """At y = 0 under N(0, σ² I): E|X| (1 - 1/√2) with E|X| = σ √2 Γ((n + 1) / 2) / Γ(n / 2)."""
    generator, sigma, rounds = torch.Generator().manual_seed(0), 30.0, 4000
    samples = sigma * torch.randn(rounds, count, n, generator=generator)
    if antithetic:
        samples[:, 1::2] = -samples[:, ::2]
    expected = sigma * sqrt(2.0) * gamma((n + 1) / 2) / gamma(n / 2) * (1.0 - sqrt(0.5)) / sqrt(n)
    assert mean_score(samples, torch.zeros(rounds, n), antithetic) == pytest.approx(expected, rel=0.04)


def test_it_agrees_with_scipy_and_in_one_dimension_with_the_crps():
    generator = np.random.default_rng(0)
    samples, truth = generator.normal(size=(6, 50)), generator.normal(size=50)
    expected = (cdist(samples, truth[None]).mean() - pdist(samples).mean() / 2.0) / sqrt(50)
    assert energy_score(torch.tensor(samples), torch.tensor(truth)) == pytest.approx(expected)
    one = torch.tensor(samples[:, :1])
    assert energy_score(one, torch.tensor(truth[:1]), True) == pytest.approx(
        float(crps(one[:, 0], torch.tensor(truth[0]), True))
    )


def test_invariances():
    generator = torch.Generator().manual_seed(1)
    samples, truth = torch.randn(4, 30, generator=generator).double(), torch.randn(30, generator=generator).double()
    found = energy_score(samples, truth)
    rotation = torch.linalg.qr(torch.randn(30, 30, generator=generator).double())[0]
    assert energy_score(samples @ rotation, truth @ rotation) == pytest.approx(found)
    assert energy_score(-2.5 * samples + 8.0, -2.5 * truth + 8.0) == pytest.approx(2.5 * found)
    assert energy_score(samples[[2, 0, 3, 1]], truth) == pytest.approx(found)
    assert energy_score(samples.repeat(1, 3), truth.repeat(3)) == pytest.approx(found)  # finer voxels, same volume
    assert energy_score(samples[:1], truth) == pytest.approx(float((samples[0] - truth).square().mean().sqrt()))


def test_the_true_distribution_scores_best():
    """Too little, too much and independent variation score worse than the truth's own, which is correlated."""
    generator, rounds = torch.Generator().manual_seed(2), 1500
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    truths = draw(rounds, 1).expand(rounds, 8) + 0.3 * draw(rounds, 8)
    shared, own = draw(rounds, 4, 1).expand(rounds, 4, 8), draw(rounds, 4, 8)
    right = mean_score(shared + 0.3 * own, truths)
    for wrong in (0.5 * (shared + 0.3 * own), 1.6 * (shared + 0.3 * own), sqrt(1.09) * own):
        assert mean_score(wrong, truths) > 1.01 * right


def test_two_antithetic_samples_are_refused():
    with pytest.raises(ValueError, match="no independent pair"):
        energy_score(torch.randn(2, 5), torch.zeros(5), True)
