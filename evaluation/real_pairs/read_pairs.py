"""Reads pairs: the X-ray as the generator takes it, and the CT on the grid of the generated volume.

The lungs of the CT lie where the lungs of the training volumes lie; registration starts there. Size is not adjusted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU, SCANNED_SHARE, fill
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.resampling import downsample, resample_onto
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from evaluation.generation.lung_guidance import AUTO
from evaluation.generation.xray_inputs import GeneratorInput, read_inputs
from evaluation.real_pairs.find_pairs import Pair
from evaluation.real_pairs.measures import GRID_MM, centre_of, lung_ml, lungs_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairCase:
    """A pair that was read.

    Attributes:
        ct: HU on the grid, `NOT_SCANNED_HU` where the CT has no voxels.
        spacing: mm `(D, H, W)` of the grid.
        centre: RAS mm of its centre.
        lung_ml: of the whole CT; NaN where no lungs are found, and of lungs that reach voxels that were not scanned.
    """

    pair: Pair
    given: GeneratorInput
    ct: Int16[Tensor, "d h w"]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]
    lung_ml: float

    def case(self) -> dict:
        """The CT, its X-rays and their poses, as the metrics take them."""
        hu, scanned = fill(self.ct.numpy())
        return {
            "ct": torch.from_numpy(hu).float(),
            "scanned": torch.from_numpy(scanned),
            "spacing": torch.tensor(self.spacing),
            "centre": torch.tensor(self.centre),
            "xray": self.given.xray,
            "pose": self.given.pose,
        }


def read_pair_cases(
    pairs: Sequence[Pair],
    pipeline,
    align: str | None = None,
    allow_any_picture: bool = False,
    lung_guide: str | None = AUTO,
) -> tuple[list[PairCase], dict[str, str]]:
    """The pairs that can be read, and why others are left out, by id, which is also logged.

    UserError if no pair is left. The options are those of `read_inputs`.
    """
    found, left_out = [], {}
    for pair in pairs:
        files = pair.xrays[0] if len(pair.xrays) == 1 else pair.xrays
        try:
            (given,) = read_inputs([files], pipeline, align, pair.view, allow_any_picture, lung_guide)
            found.append(read_case(pair, given, tuple(pipeline.volume_size), lung_place(pipeline)))
        except UserError as error:
            left_out[pair.id] = str(error)
            log.warning("%s is left out: %s", pair.id, error)
    if not found:
        raise UserError(f"pairs: none of {len(pairs)} can be used ({next(iter(left_out.values()), 'no pair')})")
    return found, left_out


def read_case(
    pair: Pair, given: GeneratorInput, size: tuple[int, int, int], place: Float[np.ndarray, "3"]
) -> PairCase:
    """Resamples the CT with the centroid of its lungs at `place` mm in the grid; UserError for an unusable CT."""
    volume = read_volume(pair.ct)
    volume.hu, scanned = fill(volume.hu)
    mask, coarse = lungs_of(volume)
    if not mask.any():
        raise UserError(f"{pair.ct}: no lungs found in the CT; give one that shows the chest")
    up, back, left = centre_of(mask, coarse.spacing) - place
    centre = tuple(float(c) for c in np.add(volume.centre, (-left, -back, up)))  # RAS
    spacing = tuple(float(e / n) for e, n in zip(given.extent, size, strict=True))
    frame = Volume(np.zeros(size, dtype=np.float32), spacing, centre)
    marks = Volume(np.where(scanned, 0.0, AIR_HU).astype(np.float32), volume.spacing, volume.centre)
    edge = AIR_HU * (1.0 - SCANNED_SHARE)
    inside = resample_onto(marks, frame, size) > edge
    cut = not scanned.all() and bool((mask & (downsample(marks, GRID_MM).hu <= edge)).any())
    hu = np.clip(resample_onto(volume, frame, size).round(), AIR_HU - 1000.0, 32767).astype(np.int16)
    ct = torch.from_numpy(np.where(inside, hu, np.int16(NOT_SCANNED_HU)))
    return PairCase(pair, given, ct, spacing, centre, np.nan if cut else lung_ml(mask, coarse.spacing))


def lung_place(pipeline) -> Float[np.ndarray, "3"]:
    """Centre of the training lungs in mm `(D, H, W)` from the centre of the volume; 0 if the checkpoint has no box."""
    box = pipeline.protocol.get("lung_box")
    if box is None:
        return np.zeros(3)
    low, high = np.array(box, dtype=float).reshape(3, 2).T
    return ((low + high) / 2.0 - 0.5) * np.array(pipeline.extent)
