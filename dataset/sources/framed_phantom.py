"""A phantom in the frame of prepared CTs: the box of its lungs with a margin."""

import numpy as np

from dataset.imaging.coverage import cropped
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.volume import Volume
from dataset.phantom.render import render_phantom

EXTENT_MM = (420.0, 320.0, 440.0)  # larger than the lungs with their margin
VOXEL_MM = 4.0
MARGIN_MM = 40.0  # as in `assets/chests`


def framed_phantom(index: int, seed: int) -> Volume:
    """The phantom in HU with contrast, without emboli; beyond `EXTENT_MM` it is marked as not scanned."""
    size = tuple(round(length / VOXEL_MM) for length in EXTENT_MM)
    phantom = render_phantom(index, seed, size, EXTENT_MM, pe_share=0.0)
    lungs = segment_lungs(phantom.hu, phantom.spacing)
    box = []
    for axis, spacing in enumerate(phantom.spacing):
        found = np.flatnonzero(lungs.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(MARGIN_MM / spacing)
        box.append(slice(int(found[0]) - margin, int(found[-1]) + 1 + margin))
    return cropped(Volume(phantom.hu, phantom.spacing), tuple(box))
