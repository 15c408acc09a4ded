"""Matrices from the volume to X-ray and film agree with the projection, the alignment and the padding."""

import numpy as np
import pytest
import torch

from dataset.imaging.geometry import project, unknown_pose, view_pose
from dataset.io.xray import resize_xray
from dataset.xray.lung_alignment import LungMap
from demo.service.xray_position import central_projection, xray_matrices
from evaluation.generation.xray_inputs import GeneratorInput

EXTENT = (320.0, 256.0, 352.0)


def place(matrix, ras) -> np.ndarray:
    """Shares of width and height."""
    u, v, w = np.asarray(matrix) @ [*ras, 1.0]
    return np.array([u / w, v / w])


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_the_matrix_projects_as_the_geometry_does(view):
    pose, centre = view_pose(EXTENT, view), (5.0, -7.0, 11.0)
    pose[3:7] = torch.tensor([4.0, 3.0, -2.0, 6.0])
    matrix = central_projection(pose, centre)
    for point in np.random.default_rng(0).uniform(-150, 150, (8, 3)):
        d, h, w = point
        ras = np.array(centre) + [-w, -h, d]
        expected = (project(torch.tensor(point, dtype=torch.float32), pose).numpy() + 1) / 2
        np.testing.assert_allclose(place(matrix, ras), expected, atol=1e-4)


def test_the_film_undoes_alignment_and_padding():
    film = torch.zeros(300, 200)
    film[90:96, 140:146] = 1.0  # centre: 0.31 of the height, 0.715 of the width
    original = resize_xray(film, (128, 128))
    alignment = LungMap((0.2, 0.8, 0.25, 0.75), (0.15, 0.7, 0.2, 0.85))
    aligned = alignment.apply(original).nan_to_num(0.0)
    rows, columns = np.nonzero(aligned.numpy() > 0.3)
    seen = np.array([(columns.mean() + 0.5) / 128, (rows.mean() + 0.5) / 128])
    given = GeneratorInput(aligned[None], unknown_pose(1, ["PA"]), EXTENT, notes={"alignment": alignment.describe()})
    found = xray_matrices(given, None, (300, 200))
    # the ray through the dot: any of its points lies on the dot of the X-ray and, by the other matrix, of the film
    matrix = np.array(found["xray"])
    system = np.stack([matrix[0] - seen[0] * matrix[2], matrix[1] - seen[1] * matrix[2]])
    x, z = np.linalg.solve(system[:, [0, 2]], -system[:, 3] - system[:, 1] * 20.0)
    np.testing.assert_allclose(place(found["xray"], (x, 20.0, z)), seen, atol=1e-6)
    np.testing.assert_allclose(place(found["film"], (x, 20.0, z)), [0.715, 0.31], atol=0.01)
