"""The lungs of a film, found in the whole film and in enlargements of their box.

The network is more accurate where the lungs fill the picture, and safe against a wrong box where it sees the whole.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dataset.imaging.lung_network import SIZE, FoundLungs, find_lungs, find_lungs_in_batch
from dataset.xray.lung_alignment import LungMap

FILLS = (0.75, 0.85)  # of the side: longer side of the lung box in each enlargement
THRESHOLD = 0.4  # of the mean probability


def find_film_lungs(xray: Float[Tensor, "h w"]) -> FoundLungs:
    """The lungs in a frontal X-ray in [0, 1]: the mean probability in the X-ray and in its enlargements.

    That of `find_lungs` if it finds no box.
    """
    whole = find_lungs(xray)
    if whole.box is None:
        return whole
    maps = [enlargement(whole.box.tolist(), fill) for fill in FILLS]
    found = [whole.probability]
    for used, close in zip(maps, find_lungs_in_batch(torch.stack([m.apply(xray) for m in maps])), strict=True):
        layers = torch.from_numpy(close.probability).reshape(-1, SIZE, SIZE)
        back = torch.stack([used.inverse.apply(layer) for layer in layers]).reshape(close.probability.shape).numpy()
        found.append(np.where(np.isnan(back), whole.probability, back))
    return FoundLungs(np.mean(found, axis=0, dtype=np.float32), THRESHOLD)


def enlargement(box, fill: float) -> LungMap:
    """The map of a lung box `(top, bottom, left, right)` to the middle, its longer side `fill` of the side."""
    top, bottom, left, right = box
    scale = fill / max(bottom - top, right - left) / 2.0
    down, across = (bottom - top) * scale, (right - left) * scale
    return LungMap((top, bottom, left, right), (0.5 - down, 0.5 + down, 0.5 - across, 0.5 + across))
