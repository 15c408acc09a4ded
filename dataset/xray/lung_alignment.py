"""Alignment of an X-ray without a pose: its lung box is mapped to the lung box of the training volumes."""

from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.imaging.geometry import project, view_pose
from dataset.imaging.lung_network import lung_box_in_image
from dataset.imaging.unknown_pixels import resampled

CHOICES = ("lungs", "none")
LARGEST_SCALE = 2.5  # of a plausible chest X-ray, up or down
LARGEST_STRETCH = 1.6  # largest ratio of the two scales


@dataclass(frozen=True)
class LungMap:
    """A map of the lung box `found` in an X-ray onto `target`: `(top, bottom, left, right)`, shares of the sides."""

    found: tuple[float, float, float, float]
    target: tuple[float, float, float, float]

    @property
    def scale(self) -> tuple[float, float]:
        """Scale factors `(rows, columns)`."""
        (t0, b0, l0, r0), (t1, b1, l1, r1) = self.found, self.target
        return (b1 - t1) / (b0 - t0), (r1 - l1) / (r0 - l0)

    @property
    def plausible(self) -> bool:
        down, across = self.scale
        stretch = max(down / across, across / down)
        return stretch <= LARGEST_STRETCH and all(1 / LARGEST_SCALE <= s <= LARGEST_SCALE for s in (down, across))

    def apply(self, image: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        """The aligned X-ray; pixels outside the original are NaN."""
        axes = []
        for count, i in zip(image.shape, (0, 2), strict=True):
            (start, end), (to_start, to_end) = self.found[i : i + 2], self.target[i : i + 2]
            share = (torch.arange(count, dtype=torch.float32) + 0.5) / count
            axes.append((start + (share - to_start) * (end - start) / (to_end - to_start)) * 2.0 - 1.0)
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]
        options = {"grid": grid, "mode": "bilinear", "align_corners": False}
        return resampled(image[None, None].float(), lambda x: F.grid_sample(x, **options))[0, 0].clamp(0, 1)

    @property
    def inverse(self) -> "LungMap":
        """The map from the aligned X-ray back to the original."""
        return LungMap(self.target, self.found)

    def describe(self) -> dict:
        """Plain JSON."""
        boxes = {**asdict(self), "scale": self.scale}
        return {"align": "lungs", **{name: [round(v, 4) for v in values] for name, values in boxes.items()}}


def lung_map(
    image: Float[Tensor, "h w"], lung_box, extent: tuple[float, float, float], view: str = "PA"
) -> LungMap | None:
    """The map of a PA or AP X-ray in `[0, 1]`; None if no lungs are found or the map is implausible.

    `lung_box` is that of the training volumes (`dataset.imaging.lung_box.lung_box_in_volume`); `extent` is that of the
    volume in mm `(D, H, W)`, or a typical one.
    """
    found = lung_box_in_image(image)
    if found is None:
        return None
    mapped = LungMap(tuple(found.tolist()), expected_box(lung_box, extent, view))
    return mapped if mapped.plausible else None


def expected_box(lung_box, extent: tuple[float, float, float], view: str = "PA") -> tuple[float, float, float, float]:
    """The lung box of a volume of `extent` mm, projected into its nominal frontal X-ray."""
    d0, d1, h0, h1, w0, w1 = (float(x) for x in lung_box)
    middle = (h0 + h1) / 2.0
    corners = torch.tensor([[d1, middle, w0], [d0, middle, w1]]) - 0.5
    points = corners * torch.tensor([float(e) for e in extent])
    (left, top), (right, bottom) = project(points, view_pose(extent, view)).tolist()
    return tuple((x + 1.0) / 2.0 for x in (top, bottom, left, right))
