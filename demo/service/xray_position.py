"""Where a point of a volume lies on its X-ray: matrices for the X-ray as the model takes it and for the film given."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.geometry import camera_axes, source_position
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.scoring.film_lungs import alignment_of, pose_of

Matrix = Float[np.ndarray, "3 4"]


def xray_matrices(given: GeneratorInput, regressor, shape: tuple[int, int]) -> dict[str, list[list[float]]]:
    """Central projections from RAS mm of the volume to `(u w, v w, w)`: u from the left, v from the top, 0 to 1.

    `xray` is that of `given.picture`, `film` that of the film before the alignment, of `shape` pixels.
    """
    xray = central_projection(pose_of(given, regressor), given.centre)
    film = _onto_film(given, shape) @ xray
    return {"xray": xray.tolist(), "film": film.tolist()}


def central_projection(pose: Float[Tensor, "9"], centre: tuple[float, float, float]) -> Matrix:
    """The matrix of `dataset.imaging.geometry.project` from RAS mm, for a volume whose centre is `centre`."""
    pose = pose.to(torch.float64)
    beam, column, row = (axis.numpy() for axis in camera_axes(pose))
    source = source_position(pose).numpy()
    distance, height, width = (float(pose[i]) for i in (0, 7, 8))
    rows = [distance / width * column + 0.5 * beam, distance / height * row + 0.5 * beam, beam]
    across = np.stack([[*axis, -axis @ source] for axis in rows])  # of (d, h, w, 1)
    x, y, z = centre
    to_volume = np.array([[0, 0, 1, -z], [0, -1, 0, y], [-1, 0, 0, x], [0, 0, 0, 1]], dtype=float)
    return across @ to_volume


def _onto_film(given: GeneratorInput, shape: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
    """From places on `given.picture` to those on the film: undoes the alignment and the padding of `resize_xray`."""
    alignment = alignment_of(given)
    whole = (0.0, 1.0, 0.0, 1.0)
    found, target = (alignment.found, alignment.target) if alignment else (whole, whole)
    scales = [(found[i + 1] - found[i]) / (target[i + 1] - target[i]) for i in (0, 2)]
    down, across = ((scale, found[i] - target[i] * scale) for i, scale in zip((0, 2), scales, strict=True))
    rows, columns = given.picture.shape[-2:]
    height, width = shape
    padded_height = max(height, round(width * rows / columns))
    padded_width = max(width, round(padded_height * columns / rows))
    aligned = np.array([[across[0], 0, across[1]], [0, down[0], down[1]], [0, 0, 1]])
    pads = (padded_width - width) // 2, (padded_height - height) // 2
    crop = np.array(
        [[padded_width / width, 0, -pads[0] / width], [0, padded_height / height, -pads[1] / height], [0, 0, 1]]
    )
    return crop @ aligned
