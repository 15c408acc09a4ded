"""Which pixels of a radiograph show the exposed detector: display shutter, collimator and pixel padding.

A shutter or collimator that leaves hardly anything is not believed: headers state edges in other units than pixels.
DICOM PS3.3 C.7.6.11 (Display Shutter), C.8.7.3 (X-Ray Collimator), C.7.5.1.1.2 (Pixel Padding). Rows and columns count
from 1, and edges belong to the picture.
"""

import numpy as np
import pydicom
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw

from dataset.io.dicom_pixels import padding_range

SMALLEST_SHARE = 0.2  # of the picture: no film of a chest is collimated to less
SHAPES = ("Shutter", "Collimator")  # Shutter Shape, Collimator Shape and their attributes


def exposed(stored: Int[np.ndarray, "h w"], header: pydicom.Dataset) -> Bool[np.ndarray, "h w"] | None:
    """False where the header states that the detector was not exposed; None if it states so of no pixel or of all."""
    inside = np.ones(stored.shape, dtype=bool)
    for what in SHAPES:
        shapes = header.get(f"{what}Shape") or ()
        for shape in [shapes] if isinstance(shapes, str) else shapes:
            if (rule := RULES.get(str(shape).strip().upper())) is not None:
                shown = rule(stored.shape, header, what)
                inside &= shown | (shown.mean() < SMALLEST_SHARE)
    if (padding := padding_range(header)) is not None:
        inside &= (stored < padding[0]) | (stored > padding[1])
    return inside if inside.any() and not inside.all() else None


def _rectangle(size: tuple[int, int], header: pydicom.Dataset, what: str) -> np.ndarray:
    row, column = np.ogrid[1 : size[0] + 1, 1 : size[1] + 1]
    left, right = (
        int(header.get(f"{what}{side}VerticalEdge", end)) for side, end in (("Left", 1), ("Right", size[1]))
    )
    edges = (("Upper", 1), ("Lower", size[0]))
    upper, lower = (int(header.get(f"{what}{side}HorizontalEdge", end)) for side, end in edges)
    return (column >= left) & (column <= right) & (row >= upper) & (row <= lower)


def _circle(size: tuple[int, int], header: pydicom.Dataset, what: str) -> np.ndarray:
    row, column = np.ogrid[1 : size[0] + 1, 1 : size[1] + 1]
    centre, radius = header[f"CenterOfCircular{what}"].value, float(header[f"RadiusOfCircular{what}"].value)
    return (row - float(centre[0])) ** 2 + (column - float(centre[1])) ** 2 <= radius**2


def _polygon(size: tuple[int, int], header: pydicom.Dataset, what: str) -> np.ndarray:
    vertices = [float(v) - 1.0 for v in header[f"VerticesOfThePolygonal{what}"].value]
    mask = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(mask).polygon(list(zip(vertices[1::2], vertices[::2], strict=True)), fill=1, outline=1)
    return np.asarray(mask)


RULES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
