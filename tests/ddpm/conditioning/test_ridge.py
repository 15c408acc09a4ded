"""Ridge regression against the normal equations, and out-of-fold predictions against fits without the fold."""

import torch

from ddpm.conditioning.ridge import PENALTIES, RidgeSystem, ridge


def test_the_system_solves_the_normal_equations_for_every_penalty():
    z = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram, right = z.T @ z, torch.eye(6, dtype=torch.float64)
    system = RidgeSystem(gram)
    torch.testing.assert_close(system.unit, gram.trace() / 6)
    for penalty in PENALTIES:
        expected = torch.linalg.solve(gram + penalty * system.unit * torch.eye(6, dtype=gram.dtype), right)
        torch.testing.assert_close(system.solve(right, penalty), expected)


def test_the_fit_without_a_fold_predicts_its_cases():
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    targets = z @ torch.randn(5, 2, generator=generator, dtype=torch.float64) + 3.0
    fold = torch.arange(40) % 4
    weights, intercepts, out_of_fold = ridge(z, targets, fold)
    torch.testing.assert_close(out_of_fold, targets, atol=0.05, rtol=0)
    assert weights.shape == (5, 5, 2) and intercepts.shape == (5, 2)
    for k in range(4):
        predicted = z[fold == k] @ weights[k] + intercepts[k]
        torch.testing.assert_close(out_of_fold[fold == k], predicted)
