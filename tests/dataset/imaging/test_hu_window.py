"""Laws of the HU window."""

import pytest
import torch

from common.errors import UserError
from dataset.imaging.hu_window import WINDOWS, Window


@pytest.mark.parametrize("window", [Window(*bounds) for bounds in WINDOWS.values()])
def test_normalise_and_denormalise_are_inverse_inside_the_window(window):
    hu = torch.linspace(window.low, window.high, 101)
    assert torch.allclose(window.denormalise(window.normalise(hu)), hu, atol=1e-3)
    assert window.normalise(hu).min() == -1 and window.normalise(hu).max() == 1
    assert window.width == window.high - window.low


def test_the_map_is_linear_and_clips():
    window = Window(-1000, 1000)
    hu = torch.tensor([-2000.0, -1000.0, -500.0, 0.0, 500.0, 1000.0, 3000.0])
    assert torch.allclose(window.normalise(hu), torch.tensor([-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]))
    assert torch.allclose(window.denormalise(torch.tensor([-5.0, 5.0])), torch.tensor([-1000.0, 1000.0]))


def test_integers_give_the_same_as_floats_and_stay_unchanged():
    hu = torch.tensor([-1024, -999, 0, 37, 3071], dtype=torch.int16)
    kept = hu.clone()
    assert torch.equal(Window(-1000, 1000).normalise(hu), Window(-1000, 1000).normalise(hu.float()))
    assert torch.equal(hu, kept)


def test_gradients_pass_the_window():
    hu = torch.tensor([-2000.0, -500.0, 500.0], requires_grad=True)
    Window(-1000, 1000).normalise(hu).sum().backward()
    assert torch.allclose(hu.grad, torch.tensor([0.0, 1e-3, 1e-3]))


def test_a_window_by_name_by_numbers_and_by_itself():
    assert Window.parse("ctpa") == Window(-200, 500) == Window.parse([-200, 500])
    assert Window.parse(Window(0, 1)) == Window(0, 1)


@pytest.mark.parametrize("value", ["lung", [1], [1, 2, 3], [500, -200], [7, 7]])
def test_an_invalid_window_names_the_key(value):
    with pytest.raises(UserError, match="dataset.window"):
        Window.parse(value)


def test_a_window_that_clips_the_lungs_forbids_reprojection():
    assert Window.parse("wide").keeps_line_integrals and Window.parse("lidc").keeps_line_integrals
    assert not Window.parse("ctpa").keeps_line_integrals
