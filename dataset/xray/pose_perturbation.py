"""X-rays of patients who stood a little otherwise: poses drawn around the nominal one, which nobody wrote down.

A film's pose is unknown. To measure what that costs, X-rays are rendered at a disturbed pose and handed on as films
are, without one: whoever needs a pose has to take the nominal one.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

DEGREES = 5.0  # of turn and of tilt, up to this
SHIFT_MM = 15.0  # of the patient along each axis, up to this
DISTANCE_SHARE = 0.1  # of the distance from source to detector, up to this nearer or further
STREAM = 2  # tells these random numbers from others of the same patient


def perturbed_poses(poses: Float[Tensor, "v 9"], words: tuple[int, ...]) -> Float[Tensor, "v 9"]:
    """Each view turned, tilted, shifted and moved; the same for the same `words` (seed, index).

    The detector keeps its size and its distance to the patient.
    """
    rng = np.random.default_rng((*words, STREAM))
    disturbed = poses.clone()
    for view, pose in enumerate(poses):
        turn, tilt, nearer, *shift = rng.uniform(-1.0, 1.0, 6)
        behind = pose[0] - pose[1]  # from the patient to the detector
        disturbed[view, 0] = pose[0] * (1.0 + DISTANCE_SHARE * nearer)
        disturbed[view, 1] = disturbed[view, 0] - behind
        disturbed[view, 2] = pose[2] + DEGREES * turn
        disturbed[view, 3] = pose[3] + DEGREES * tilt
        disturbed[view, 4:7] = pose[4:7] + SHIFT_MM * torch.tensor(shift, dtype=pose.dtype)
    return disturbed


def describe() -> dict:
    """Plain JSON."""
    return {"degrees": DEGREES, "mm": SHIFT_MM, "distance": DISTANCE_SHARE}
