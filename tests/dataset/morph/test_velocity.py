"""Laws of flows: inverse, matrix exponential, composition, positive Jacobian."""

import numpy as np
import pytest
import torch

from dataset.morph.random_change import smooth_noise
from dataset.morph.velocity import compose, exponential, identity, interpolate, jacobian, linear, resize, sample

SIZE = (40, 36, 44)
INSIDE = (slice(None), *[slice(8, -8)] * 3)


@pytest.fixture
def velocity():
    """Smooth, with displacements of up to a quarter of the box."""
    return resize(smooth_noise(np.random.default_rng(0), 3, 4), SIZE) * 0.07


def test_a_shift_generates_itself():
    field = torch.tensor([0.1, -0.05, 0.02]).view(3, 1, 1, 1).expand(3, *SIZE)
    torch.testing.assert_close(exponential(field), field.contiguous(), atol=1e-5, rtol=0)


def test_a_linear_velocity_generates_its_matrix_exponential():
    matrix = torch.tensor([[0.1, 0.05, 0.0], [-0.05, -0.08, 0.02], [0.03, 0.0, 0.06]])
    field = exponential(linear(matrix, torch.zeros(3), SIZE))
    points = identity(SIZE)
    wanted = torch.einsum("ij,jdhw->idhw", torch.matrix_exp(matrix), points) - points
    torch.testing.assert_close(field[INSIDE], wanted[INSIDE], atol=2e-3, rtol=0)
    determinant = float(torch.det(torch.matrix_exp(matrix)))
    torch.testing.assert_close(
        jacobian(field)[INSIDE[1:]], torch.full_like(field[0], determinant)[INSIDE[1:]], atol=5e-3, rtol=0
    )


def test_the_negative_velocity_generates_the_inverse(velocity):
    there, back = exponential(velocity), exponential(-velocity)
    assert there[INSIDE].abs().max() > 0.1
    assert compose(back, there)[INSIDE].abs().max() < 0.1 * there[INSIDE].abs().max()


def test_halves_compose_to_the_whole(velocity):
    half = exponential(velocity / 2)
    torch.testing.assert_close(compose(half, half), exponential(velocity), atol=3e-3, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 2.0, -2.0])
def test_no_multiple_of_a_velocity_folds_though_its_displacement_would(velocity, strength):
    assert jacobian(exponential(strength * velocity)).min() > 0
    assert jacobian(8.0 * velocity).min() < 0


def test_samples_at_voxel_centres_are_the_voxels_and_beyond_the_box_the_nearest(velocity):
    torch.testing.assert_close(sample(velocity, identity(SIZE)), velocity, atol=1e-5, rtol=0)
    far = torch.full((3, 1, 1, 1), 5.0)
    torch.testing.assert_close(sample(velocity, far)[:, 0, 0, 0], velocity[:, -1, -1, -1])


def test_interpolation_on_a_regular_grid_is_that_of_any_points(velocity):
    low, high, size = (-1.2, -0.5, -0.9), (0.7, 0.6, 1.1), (31, 22, 17)
    axes = [a + (torch.arange(n) + 0.5) * (b - a) / n for a, b, n in zip(low, high, size, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])
    torch.testing.assert_close(interpolate(velocity, low, high, size), sample(velocity, points), atol=1e-5, rtol=0)
