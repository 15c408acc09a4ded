"""Grey scale and pose of a film of a known volume are found, within bounds, from what the film measures alone."""

import pytest
import torch
from film_world import PIXELS, chest, film_of, nuisance, part, rays

from ddpm.consistency.films.calibration import LIMITS, NAMES, FilmCalibration, calibrate_film
from ddpm.consistency.films.measurement import FilmMeasurement

VOLUME = chest().flatten()


def shares(**values) -> FilmCalibration:
    """One view displaced by degrees and mm."""
    found = [values.get(name, 0.0) / limit for name, limit in zip(NAMES, LIMITS, strict=True)]
    return FilmCalibration(torch.tensor([found]))


def found_in(film, volume=VOLUME, views=1):
    calibration = calibrate_film(nuisance(views), film, volume, rays(views), level=1.0, rounds=8)
    return {name: value.tolist() for name, value in calibration.values().items()}, calibration


def test_grey_scale_and_azimuth_of_a_drr_of_the_truth_are_recovered():
    found, _ = found_in(film_of(shares(azimuth=3.0), gain=0.8, offset=0.05))
    assert found["gain"][0] == pytest.approx(0.8, abs=0.01) and found["offset"][0] == pytest.approx(0.05, abs=0.01)
    assert found["azimuth"][0] == pytest.approx(3.0, abs=0.3)
    assert abs(found["elevation"][0]) < 0.3 and abs(found["down"][0]) < 1.0 and abs(found["across"][0]) < 1.5
    assert found["gamma"][0] == pytest.approx(1.0, abs=0.03)


def test_gamma_elevation_and_shifts_are_recovered_together():
    moved = shares(azimuth=-2.0, elevation=2.0, down=6.0, across=-8.0)
    found, _ = found_in(film_of(moved, gain=1.2, offset=-0.05, gamma=1.2))
    assert found["gamma"][0] == pytest.approx(1.2, abs=0.05) and found["gain"][0] == pytest.approx(1.2, abs=0.03)
    assert found["azimuth"][0] == pytest.approx(-2.0, abs=0.4) and found["elevation"][0] == pytest.approx(2.0, abs=0.4)
    assert found["down"][0] == pytest.approx(6.0, abs=1.0) and found["across"][0] == pytest.approx(-8.0, abs=1.5)


def test_each_view_has_its_own():
    views = FilmCalibration(torch.cat([shares(azimuth=2.0).shares, shares(elevation=-2.0).shares]))
    found, _ = found_in(film_of(views), views=2)
    assert found["azimuth"] == pytest.approx([2.0, 0.0], abs=0.4)
    assert found["elevation"] == pytest.approx([0.0, -2.0], abs=0.4)


def test_a_film_of_the_truth_stays_as_it_is():
    found, calibration = found_in(film_of(shares()))
    assert calibration.shares.abs().max() < 0.1
    assert found["gain"][0] == pytest.approx(1.0, abs=0.01) and abs(found["azimuth"][0]) < 0.3


def test_the_bounds_are_kept_whatever_the_film_shows():
    generator = torch.Generator().manual_seed(0)
    for film in (torch.rand(PIXELS**2, generator=generator), torch.zeros(PIXELS**2), 9.0 * film_of(shares())):
        _, calibration = found_in(film)
        assert calibration.shares.abs().max() <= 1.0 and calibration.shares.isfinite().all()


def test_unknown_pixels_do_not_matter():
    """Not their values, and nothing is found where nothing is known."""
    film = film_of(shares(azimuth=3.0), gain=0.8, offset=0.05).view(PIXELS, PIXELS)
    film[:, :8] = float("nan")
    found, _ = found_in(film.flatten())
    assert found["gain"][0] == pytest.approx(0.8, abs=0.02) and found["azimuth"][0] == pytest.approx(3.0, abs=0.6)
    nothing, calibration = found_in(torch.full((PIXELS**2,), float("nan")))
    assert not calibration.shares.any() and nothing["gain"] == [1.0]


def test_the_parameters_at_a_bound_are_named():
    found = FilmCalibration(
        torch.tensor([[0.0, 0.998, -1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]])
    )
    assert found.at_bound() == ["gain", "gamma"]
    assert FilmCalibration(torch.zeros(1, 7)).at_bound() == []


def measured(film) -> FilmMeasurement:
    return FilmMeasurement(part(), film, rays())


def test_latents_of_the_truth_stay_although_the_film_is_displaced():
    """Without the calibration the same latents are far from the film and move."""
    truth = chest()[None, None] / 0.01
    measurement = measured(film_of(shares(azimuth=3.0), gain=0.8, offset=0.05))
    model = measurement.model
    fixed = model.measurement(measurement.film.view(1, 1, PIXELS, PIXELS), rays().poses, torch.tensor(rays().extent))
    assert fixed.chi2(truth) > 8.0 and measurement.at(measurement.calibration(truth)).chi2(truth) < 1.3
    assert (
        measurement.update(truth, 0.0, 1.0).change.abs().mean()
        < 0.1 * fixed.update(truth, 0.0, 1.0).change.abs().mean()
    )


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    truth = chest()[None, None] / 0.01
    clean = torch.cat([truth, truth + 0.2, 0.9 * truth])
    measurement = measured(film_of(shares(azimuth=3.0), gain=0.8))
    together = measurement.update(clean, 0.3, 0.9).change
    alone = torch.cat([measurement.update(one[None], 0.3, 0.9).change for one in clean])
    torch.testing.assert_close(together, alone)
