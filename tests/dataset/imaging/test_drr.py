"""Laws of the DRR: projection, path lengths, gradients, mirror images, grey scale."""

import time

import pytest
import torch
from nanodrr.camera import make_k_inv
from nanodrr.data import Subject
from nanodrr.data.preprocess import MU_WATER
from nanodrr.drr import render

from dataset.imaging import drr
from dataset.imaging.drr import line_integrals, render_xray, scale_xray
from dataset.imaging.geometry import camera_axes, make_pose, project, source_position, unknown_pose, voxel_centres

EXTENT, SIZE = (160.0, 128.0, 176.0), (32, 32, 32)
SPACING = (5.0, 4.0, 5.5)


def ball(centre, radius=14.0) -> torch.Tensor:
    """HU of a dense ball in air with an edge of one voxel."""
    distance = (voxel_centres(SIZE, EXTENT) - torch.tensor(centre)).norm(dim=-1)
    return -1000.0 + 2000.0 * (0.5 - (distance - radius) / 5.0).clamp(0.0, 1.0)


def by_nanodrr(hu: torch.Tensor, pose: torch.Tensor, size: tuple[int, int], samples: int) -> torch.Tensor:
    """Line integrals by nanodrr, whose world is RAS: right = -w, anterior = -h, superior = d."""
    beam, column, row = camera_axes(pose)
    signs = torch.tensor([-1.0, -1.0, 1.0])
    camera = torch.eye(4)
    camera[:3, :3] = torch.stack([signs * axis.flip(0) for axis in (column, row, beam)], dim=-1)
    camera[:3, 3] = signs * source_position(pose).flip(0)
    counts = torch.tensor(hu.shape[::-1], dtype=torch.float32)
    to_world, to_grid = torch.eye(4), torch.eye(4)
    to_world[:3, :3] = torch.diag(signs * torch.tensor(SPACING[::-1]))
    to_world[:3, 3] = -signs * torch.tensor(SPACING[::-1]) * (counts - 1) / 2
    to_grid[:3, :3], to_grid[:3, 3] = torch.diag(2.0 / counts), 1.0 / counts - 1.0
    labels = torch.zeros(1, 1, 1, 1, 1)
    subject = Subject(hu[None, None], labels, to_world, to_world.inverse(), to_grid, torch.zeros(3), max_label=0)
    pixel = float(pose[8]) / size[1], float(pose[7]) / size[0]
    k_inv = make_k_inv(float(pose[0]), *pixel, 0.0, 0.0, *size)
    return render(subject, k_inv.float(), camera[None], pose[:1], *size, n_samples=samples)[0, 0]


def centroid(image: torch.Tensor) -> torch.Tensor:
    """`(column, row)` in [-1, 1] from edge to edge, weighted by the image."""
    rows, columns = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in image.shape)
    return torch.stack([(image.sum(0) * columns).sum(), (image.sum(1) * rows).sum()]) / image.sum()


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (90, 0), (180, 0), (35, 12), (-60, -20)])
@pytest.mark.parametrize("centre", [(35.0, 20.0, 40.0), (-30.0, -25.0, -35.0), (0.0, 30.0, -45.0)])
def test_a_shadow_agrees_with_project(azimuth, elevation, centre):
    pose = make_pose(EXTENT, azimuth, elevation)
    pose[4:7] = torch.tensor([6.0, -9.0, 4.0])  # an isocentre that is not the centre
    pose[7:9] = torch.tensor([260.0, 300.0])  # a field that is not square
    shadow = centroid(line_integrals(ball(centre), SPACING, pose, (96, 128)))
    expected = project(torch.tensor(centre), pose)
    assert (shadow - expected).abs().max() < 0.1 * 2 / 96  # a tenth of a pixel


def test_row_0_is_superior_and_column_0_the_patients_right():
    image = line_integrals(ball((40.0, 0.0, -50.0)), SPACING, make_pose(EXTENT))  # superior, right
    row, column = divmod(int(image.argmax()), image.shape[1])
    assert row < 50 and column < 50
    assert image.max() > 10 * image[-20:, -20:].max()  # bright is dense


@pytest.mark.parametrize("azimuth, axis", [(0, 1), (90, 2)])
def test_the_central_ray_through_water_integrates_to_its_length(azimuth, axis):
    image = line_integrals(torch.zeros(SIZE), SPACING, make_pose(EXTENT, azimuth), (65, 65))
    assert image[32, 32] == pytest.approx(MU_WATER * EXTENT[axis], rel=2e-3)


def test_a_unit_voxel_integrates_to_its_volume_over_the_detector():
    size = (21, 21, 21)
    hu = torch.full(size, -1000.0)
    hu[10, 10, 10] = 0.0
    pose = make_pose((21 * 5.0, 21 * 4.0, 21 * 5.5))
    image = line_integrals(hu, SPACING, pose, (256, 256))
    pixel = (pose[7] / 256 * pose[1] / pose[0]) ** 2  # mm^2 at the isocentre, where the voxel lies
    assert image.sum() * pixel == pytest.approx(MU_WATER * 5.0 * 4.0 * 5.5, rel=0.01)


@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (90, 0), (40, 0), (-35, 12), (180, -5)])
def test_line_integrals_are_those_of_nanodrr_with_many_samples(azimuth, elevation):
    torch.manual_seed(0)
    hu = torch.nn.functional.interpolate(torch.randn(1, 1, 8, 8, 8) * 400, SIZE, mode="trilinear")[0, 0]
    pose = make_pose(EXTENT, azimuth, elevation)
    pose[4:7], pose[7:9] = torch.tensor([6.0, -9.0, 4.0]), torch.tensor([260.0, 300.0])
    image, exact = line_integrals(hu, SPACING, pose, (64, 48)), by_nanodrr(hu, pose, (64, 48), 800)
    assert (image - exact).abs().max() < 0.004 * exact.max()
    assert (image - exact).abs().mean() < 0.0005 * exact.mean()


def test_a_mirrored_volume_gives_a_mirrored_image():
    hu = ball((20.0, 10.0, 40.0))
    pose = make_pose(EXTENT)
    image, mirrored = line_integrals(hu, SPACING, pose), line_integrals(hu.flip(2), SPACING, pose)
    assert torch.allclose(mirrored, image.flip(1), atol=1e-4)
    assert (mirrored - image).abs().max() > 0.5


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    hu = (torch.randn(6, 6, 6, dtype=torch.float64) * 300 + 500).requires_grad_()  # far from the kink at 0 HU
    pose, weights = make_pose((30.0, 24.0, 33.0), 20.0, 5.0), torch.randn(8, 8, dtype=torch.float64)

    def loss(volume):
        return (line_integrals(volume, SPACING, pose, (8, 8)) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(hu), hu)
    direction = torch.randn_like(gradient)
    step = 1e-3
    numeric = (loss(hu.detach() + step * direction) - loss(hu.detach() - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-4)
    assert (gradient != 0).all()


def test_air_has_no_shadow_and_integers_are_accepted():
    assert line_integrals(torch.full(SIZE, -1024, dtype=torch.int16), SPACING, make_pose(EXTENT)).abs().max() == 0


def test_rendering_in_groups_of_planes_changes_nothing(monkeypatch):
    hu, pose = ball((20.0, 10.0, 40.0)), make_pose(EXTENT)
    whole = line_integrals(hu, SPACING, pose, (64, 48))
    monkeypatch.setattr(drr, "_SAMPLES_PER_CHUNK", 10_000)
    assert torch.allclose(line_integrals(hu, SPACING, pose, (64, 48)), whole, atol=1e-6)


def test_several_views():
    images = render_xray(ball((20.0, 10.0, 40.0)), SPACING, torch.stack([make_pose(EXTENT), make_pose(EXTENT, 90.0)]))
    assert images.shape == (2, 128, 128) and images.min() == 0 and images.max() == 1
    assert not torch.allclose(images[0], images[1])


def test_speed():
    hu, pose = torch.zeros(64, 64, 64), make_pose((320.0, 256.0, 352.0))
    line_integrals(hu, (5.0, 4.0, 5.5), pose)
    start = time.process_time()
    line_integrals(hu, (5.0, 4.0, 5.5), pose)
    assert time.process_time() - start < 1.0  # 0.05 s


@pytest.mark.parametrize(
    "hu, spacing, pose, size, words",
    [
        (torch.zeros(1, 8, 8, 8), SPACING, make_pose(EXTENT), (8, 8), "shape"),
        (torch.full((8, 8, 8), float("nan")), SPACING, make_pose(EXTENT), (8, 8), "NaN"),
        (torch.zeros(8, 8, 8), (5.0, 0.0, 5.0), make_pose(EXTENT), (8, 8), "spacing"),
        (torch.zeros(8, 8, 8), SPACING, unknown_pose()[0], (8, 8), "known"),
        (torch.zeros(8, 8, 8), SPACING, -make_pose(EXTENT), (8, 8), "positive"),
        (torch.zeros(8, 8, 8), SPACING, make_pose(EXTENT)[:6], (8, 8), "9"),
        (torch.zeros(8, 8, 8), SPACING, make_pose(EXTENT), (0, 8), "size"),
    ],
)
def test_invalid_input_is_rejected(hu, spacing, pose, size, words):
    with pytest.raises(ValueError, match=words):
        line_integrals(hu, spacing, pose, size)


def test_scale_does_not_depend_on_gain_and_offset_of_the_detector():
    torch.manual_seed(0)
    image = torch.rand(64, 64) * 7
    assert torch.allclose(scale_xray(image), scale_xray(image * 31.0 + 400.0), atol=1e-4)
    assert scale_xray(image).min() == 0 and scale_xray(image).max() == 1


def test_scale_is_robust_to_a_few_saturated_pixels():
    torch.manual_seed(0)
    image = torch.rand(100, 100)
    burnt = image.clone()
    burnt[0, :10] = 1e4
    assert (scale_xray(burnt) - scale_xray(image))[1:].abs().max() < 0.01


def test_scale_ignores_pixels_outside_the_field():
    torch.manual_seed(0)
    image = torch.rand(64, 64)
    field = torch.zeros(64, 64, dtype=torch.bool)
    field[10:50, 5:60] = True
    black, white = image.clone(), image.clone()
    black[~field], white[~field] = -3.0, 9.0
    hidden = torch.where(field, image, torch.nan)
    for other in (white, hidden):
        torch.testing.assert_close(scale_xray(black, field), scale_xray(other, field), equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(scale_xray(hidden), scale_xray(image, field), equal_nan=True, rtol=0, atol=0)
    assert scale_xray(white, field)[~field].isnan().all()
    assert torch.allclose(scale_xray(image, field)[10:50, 5:60], scale_xray(image[10:50, 5:60]))


def test_each_image_of_a_batch_is_scaled_separately():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16) * torch.tensor([1.0, 50.0])[:, None, None, None]
    scaled = scale_xray(images)
    assert scaled.shape == images.shape
    assert torch.equal(scaled[1, 2], scale_xray(images[1, 2]))


def test_scale_rejects_an_image_without_content():
    with pytest.raises(ValueError, match="constant"):
        scale_xray(torch.full((8, 8), 3.0))
    with pytest.raises(ValueError, match="infinite"):
        scale_xray(torch.full((8, 8), float("inf")))
    with pytest.raises(ValueError, match="empty"):
        scale_xray(torch.full((8, 8), float("nan")))
    with pytest.raises(ValueError, match="empty"):
        scale_xray(torch.rand(8, 8), torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="shape"):
        scale_xray(torch.rand(8))
