"""How bright the blood is: HU of heart and great vessels, found between the lungs without a segmentation of them."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from dataset.volume_io import Volume

SMOOTH_MM = 4.0  # deviation of the Gaussian: averages noise, calcium and thin bone away
MIDDLE = (0.3, 0.75)  # of the height of the lungs, from below: the heart and the pulmonary trunk
ACROSS = (0.33, 0.67)  # of their width
FRONT = (0.15, 0.6)  # of their depth from the front: between sternum and spine
BLOOD_ABOVE_HU = 0.0  # fat and lung are no blood
PERCENTILE = 90.0  # of what is left: heart walls and oesophagus are darker than blood with contrast
LEAST_VOXELS = 100


def central_vessel_hu(volume: Volume, lungs: Bool[np.ndarray, "d h w"]) -> float | None:
    """HU of the brightest tenth of the soft tissue between the lungs; None where there is none.

    About 40 to 70 without contrast, 150 to 500 in an angiography. `lungs` lies on the same grid; where it is empty
    the whole volume stands for it.
    """
    found = ndimage.find_objects(lungs.astype(np.uint8))
    box = found[0] if found else tuple(slice(0, n) for n in volume.hu.shape)
    part = tuple(
        slice(one.start + round(low * (one.stop - one.start)), one.start + round(high * (one.stop - one.start)))
        for one, (low, high) in zip(box, (MIDDLE, FRONT, ACROSS), strict=True)
    )
    smooth = ndimage.gaussian_filter(volume.hu[part], [SMOOTH_MM / s for s in volume.spacing])
    blood = smooth[(smooth > BLOOD_ABOVE_HU) & ~lungs[part]]
    return float(np.percentile(blood, PERCENTILE)) if blood.size >= LEAST_VOXELS else None
