"""Film imitation: films in [0, 1], repeatable, with masks that move with the image."""

import numpy as np
import pytest
import torch

from dataset.xray.film_imitation import FilmImitation


@pytest.fixture(scope="module")
def chest():
    """Line integrals with two dark lungs, no bone, and the depth of the lungs."""
    down, across = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    depth = torch.stack([120.0 * (((across - x) / 0.16) ** 2 + ((down - 0.45) / 0.3) ** 2 < 1) for x in (0.28, 0.72)])
    return 5.0 - 0.02 * depth.sum(dim=0), torch.zeros_like(across), depth


def test_films_are_repeatable_and_in_range(chest):
    films = [FilmImitation()(*chest, np.random.default_rng(seed)) for seed in (*range(20), 0)]
    assert torch.equal(films[0][0], films[-1][0]) and not torch.equal(films[0][0], films[1][0])
    for film, depth in films:
        assert film.shape == (96, 96) and depth.shape == (2, 96, 96)
        assert film.min() >= 0.0 and film.max() <= 1.0 and torch.isfinite(film).all()
        assert depth.min() >= 0.0 and depth.max() <= 121.0


def test_the_lungs_stay_darker_than_the_rest_and_in_their_order(chest):
    darker, order = [], []
    for seed in range(30):
        film, depth = FilmImitation()(*chest, np.random.default_rng(seed))
        lungs, seen = depth.sum(dim=0) > 60, film > 0
        darker.append(float(film[lungs].mean() < film[seen & ~lungs].mean()))
        places = [float((side * torch.arange(96)).sum() / side.sum()) for side in depth]
        order.append(places[0] < places[1])
    assert np.mean(darker) > 0.8 and all(order)
