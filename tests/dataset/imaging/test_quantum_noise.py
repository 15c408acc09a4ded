"""Quantum noise of DRRs: the law of Poisson, the same noise for the same case, and the error that it causes."""

import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from dataset.imaging.drr import forward_image, line_integrals, render_xray, scale_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.forward_model import (
    ForwardModel,
    noise_stream,
    photons_per_pixel,
    with_quantum_noise,
)
from dataset.imaging.geometry import make_pose
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume
from dataset.phantom.render import render_phantom
from evaluation.metrics.reprojection import reprojection_error

SIZE, DOSE, STREAM = (96, 96), 800_000.0, noise_stream("a case")


def noise_error(integrals: torch.Tensor, photons: float, image: str) -> torch.Tensor:
    """Expected absolute error of each pixel, by the delta method.

    The standard deviation of L is exp(L / 2) / sqrt(N), that of the transmission exp(-L) is exp(-L / 2) / sqrt(N); a
    normal error has the mean magnitude sqrt(2 / pi) times it.
    """
    return math.sqrt(2.0 / math.pi / photons) * torch.exp((0.5 if image == "log" else -0.5) * integrals)


@pytest.fixture(scope="module")
def patient() -> Volume:
    phantom = render_phantom(5, size=(48, 40, 52))
    return Volume(phantom.hu_plain, phantom.spacing)


@pytest.mark.parametrize("counts", [0.7, 8.0, 60.0, 150.0, 3e3, 2e6])
def test_the_counts_behind_a_slab_have_mean_and_variance_of_poisson(counts):
    """Of a slab of water of 100 mm, of which exp(-1.92) of the photons come through."""
    slab = torch.full((32, 32, 32), -1000.0)
    slab[:, 11:21] = 0.0  # 10 voxels of 10 mm along the beam
    thickness = line_integrals(slab, (20.0, 10.0, 20.0), make_pose((640.0, 320.0, 640.0)), (65, 65))[32, 32]
    assert float(thickness) == pytest.approx(0.0192 * 100, rel=5e-3)
    image, photons = torch.full((300, 300), float(thickness)), counts / float(torch.exp(-thickness))
    measured = torch.exp(-with_quantum_noise(image, photons, STREAM).double()) * photons
    measured = measured.round() if counts > 10 else torch.where(measured < 0.75, 0.0, measured.round())
    assert float(measured.mean()) == pytest.approx(counts, abs=5 * (counts / 90_000) ** 0.5)
    assert float(measured.var()) == pytest.approx(counts, rel=0.03)


def test_the_noise_belongs_to_the_case_and_the_view_alone():
    image = torch.linspace(0.0, 5.0, 40_000).reshape(200, 200)
    first = with_quantum_noise(image, 1e6, STREAM) - image
    np.random.default_rng(0).random(100)
    assert torch.equal(first, with_quantum_noise(image, 1e6, noise_stream("a case")) - image)
    for other in (noise_stream("b case"), (*STREAM, 1)):
        both = torch.stack([first.flatten(), (with_quantum_noise(image, 1e6, other) - image).flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 0.03
    changed = image + 0.01  # a lesion: the same noise, so the difference of both X-rays shows it
    assert (with_quantum_noise(changed, 1e6, STREAM) - changed - first).std() < 0.02 * first.std()


def test_views_have_noise_of_their_own(patient):
    pose = DrrSettings().poses(patient.extent)[0]
    twice = DrrSettings(photons=1e4).render(patient, torch.stack([pose, pose]), SIZE, STREAM)
    quiet = DrrSettings().render(patient, pose[None], SIZE)[0]
    both = (twice - quiet).flatten(1)
    assert not torch.equal(*twice) and torch.corrcoef(both)[0, 1].abs() < 0.3


@pytest.mark.parametrize("image", ["log", "linear"])
def test_many_photons_leave_the_xray_as_it_is(patient, image):
    poses = DrrSettings().poses(patient.extent, 2)
    quiet = DrrSettings(image=image).render(patient, poses, SIZE)
    errors = [
        float((DrrSettings(image=image, photons=dose).render(patient, poses, SIZE, STREAM) - quiet).abs().mean())
        for dose in (1e3, 1e5, 1e12)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[2] < 1e-5
    assert torch.equal(DrrSettings(image=image, photons=0).render(patient, poses, SIZE), quiet)


def test_the_dose_does_not_depend_on_the_number_of_pixels():
    pose = make_pose((320.0, 256.0, 352.0))
    few, many = (photons_per_pixel(DOSE, pose, size) for size in ((64, 64), (128, 256)))
    assert few == pytest.approx(8 * many) and few == pytest.approx(DOSE * float(pose[7] * pose[8]) / 64**2)
    flat = torch.full((256, 256), 3.0)
    fine = torch.exp(-with_quantum_noise(flat, DOSE, STREAM).double())
    binned = torch.nn.functional.avg_pool2d(fine[None], 2)[0].var()
    coarse = torch.exp(-with_quantum_noise(flat[:128, :128], 4 * DOSE, STREAM).double()).var()
    assert float(binned) == pytest.approx(float(coarse), rel=0.05)


@pytest.mark.parametrize("image", ["log", "linear"])
def test_the_truths_own_error_is_that_of_the_noise_and_a_coarser_grid_has_a_larger_one(patient, image):
    """Without noise it is below 0.001 on its own grid; with noise it is the closed form of `noise_error`."""
    plain, settings = DrrSettings(image=image), DrrSettings(image=image, photons=1e5)
    poses, model = (
        settings.poses(patient.extent),
        ForwardModel.of_protocol({"forward_model": settings.forward_model()}),
    )
    quiet, noisy = plain.render(patient, poses, SIZE)[0], settings.render(patient, poses, SIZE, STREAM)[0]
    own = forward_image(torch.from_numpy(patient.hu), patient.spacing, poses[0], SIZE, model)
    integrals, photons = own if image == "log" else -torch.log(-own), photons_per_pixel(1e5, poses[0], SIZE)
    measured = with_quantum_noise(integrals, photons, STREAM)
    error = (measured if image == "log" else -torch.exp(-measured)) - own
    expected = noise_error(integrals, photons, image)
    assert float(error.abs().mean()) == pytest.approx(float(expected.mean()), rel=0.03)
    inside = (quiet > 0.02) & (quiet < 0.98)  # beyond, the grey scale clips the noise
    low, high = (float(own.flatten().kthvalue(round(share * own.numel())).values) for share in (0.005, 0.995))
    expected = float(expected[inside].mean()) / (high - low)
    found = float((quiet - noisy)[inside].abs().mean())
    # on the linear scale, noise of the open field also moves the percentile that becomes black
    assert 0.9 * expected < found < (1.1 if image == "log" else 1.6) * expected
    bare, whole = (float(reprojection_error(scale_xray(own), xray)) for xray in (quiet, noisy))
    assert bare < 0.001 and max(bare, 0.8 * expected) < whole < bare + 2.5 * expected
    coarse = downsample(patient, 20.0)
    drr = scale_xray(forward_image(torch.from_numpy(coarse.hu), coarse.spacing, poses[0], SIZE, model))
    floor, with_noise = (float(reprojection_error(drr, xray)) for xray in (quiet, noisy))
    assert 2 * bare < floor and abs(with_noise - floor) < expected


def test_noise_needs_random_words_and_a_dose(patient):
    pose = DrrSettings().poses(patient.extent)
    with pytest.raises(ValueError, match="photons without stream"):
        render_xray(torch.from_numpy(patient.hu), patient.spacing, pose, SIZE, photons=DOSE)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="dataset.drr_photons"):
            DrrSettings(photons=wrong)


def test_the_protocol_names_the_dose_and_keys_of_cases_without_noise_stay():
    assert "photons" not in DrrSettings().describe() and DrrSettings().forward_model()["noise"] == "none"
    described = DrrSettings(photons=DOSE).forward_model()
    assert described["photons"] == DOSE and "Poisson of 800000 photons per mm²" in described["noise"]
    assert DrrSettings(photons=DOSE).describe()["photons"] == DOSE
    assert ForwardModel.of_protocol({"forward_model": described}).photons == DOSE
    assert ForwardModel.of_protocol({"dataset": "x", "drr": {"image": "log"}}).photons is None
