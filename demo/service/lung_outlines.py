"""Outlines of the lungs over the X-ray: those of the generated volume, projected, and those found in the X-ray."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.scoring.film_lungs import COLOURS, dice, lungs_on_xray
from evaluation.visualization import slices as pictures

SIDE, LINE = 512, 3  # pixels of the longer side, and of the width of an outline
MAX_VOXELS = 64  # along each axis of the volume: the lungs of finer ones take seconds and hardly differ


def draw_lungs(path: Path, mean: Float[Tensor, "d h w"], shown: GeneratorInput, regressor) -> str:
    """Writes the X-ray as the model sees it with both outlines, and returns one line: their Dice, or what is missing.

    Args:
        mean: HU of the volume.
        regressor: of the pose, or None.
    """
    coarse = F.interpolate(mean[None, None], size=[min(n, MAX_VOXELS) for n in mean.shape], mode="area")[0, 0]
    volume, xray = lungs_on_xray(coarse, shown, regressor)
    tile = pictures.xray_tile(shown.picture, SIDE)
    picture = np.array(tile)
    for mask, name in ((xray, "network"), (volume, "volume")):
        picture[_outline(mask, tile.size)] = COLOURS[name]
    pictures.mark_synthetic(Image.fromarray(picture)).save(path)
    missing = [place for place, mask in (("the volume", volume), ("the X-ray", xray)) if not mask.any()]
    if missing:
        return f"No lungs found in {' or in '.join(missing)}, so their outlines are not compared."
    return f"Lungs of the volume, projected, against those found in the X-ray: Dice {dice(volume, xray):.2f}."


def _outline(mask: Bool[np.ndarray, "s s"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    fine = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)) > 127
    return fine & ~ndimage.binary_erosion(fine, iterations=LINE, border_value=1)
