"""Random poses around the nominal one. X-rays rendered at them have no pose, like real radiographs."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

DEGREES = 5.0  # largest rotation and tilt
SHIFT_MM = 15.0  # largest shift of the patient along each axis
DISTANCE_SHARE = 0.1  # largest relative change of the source-detector distance
STREAM = 2  # separates these random numbers from others of the same patient
PROTOCOL = {"degrees": DEGREES, "mm": SHIFT_MM, "distance": DISTANCE_SHARE}


def perturbed_poses(poses: Float[Tensor, "v 9"], words: tuple[int, ...]) -> Float[Tensor, "v 9"]:
    """The poses with a random rotation, tilt, shift and source distance, determined by `words` (seed, index).

    The detector keeps its size and its distance to the patient.
    """
    rng = np.random.default_rng((*words, STREAM))
    perturbed = poses.clone()
    for view, pose in enumerate(poses):
        rotation, tilt, distance, *shift = rng.uniform(-1.0, 1.0, 6)
        behind = pose[0] - pose[1]  # distance from the patient to the detector
        perturbed[view, 0] = pose[0] * (1.0 + DISTANCE_SHARE * distance)
        perturbed[view, 1] = perturbed[view, 0] - behind
        perturbed[view, 2] = pose[2] + DEGREES * rotation
        perturbed[view, 3] = pose[3] + DEGREES * tilt
        perturbed[view, 4:7] = pose[4:7] + SHIFT_MM * torch.tensor(shift, dtype=pose.dtype)
    return perturbed
