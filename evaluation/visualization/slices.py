"""Slices of volumes in radiological orientation; generated ones carry the mark `SYNTHETIC`.

`dataset.imaging.geometry.display_slice` orients slices, which are scaled to their proportions in mm.
Grey levels run over `DISPLAY_HU`, or over the model's window where that is narrower.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps, get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dataset.imaging.geometry import DISPLAY_MARKS, PLANES, display_slice, extent_mm
from dataset.imaging.hu_window import Window
from dataset.io.nifti import SYNTHETIC

DISPLAY_HU = Window(-1000.0, 500.0)
ERROR_HU = 500.0  # differences of this size have the full colour
TILE = 208  # pixels of the longest side of a volume
GIF_TILE, GIF_GREYS = 176, 32  # a GIF stores noise badly: with 256 greys it is three times as large
POSITIONS = {"axial": 0.5, "coronal": 0.5, "sagittal": 0.3}  # sagittals through the right lung, not through the spine
BACKGROUND, INK, ACCENT = (16, 18, 22), (225, 228, 232), (255, 196, 0)


def display_window(window: Window) -> Window:
    """Grey levels for volumes clipped to `window`: the part of `DISPLAY_HU` that it holds."""
    low, high = max(window.low, DISPLAY_HU.low), min(window.high, DISPLAY_HU.high)
    return Window(low, high) if high > low else window


def tile(
    volume: Float[Tensor, "d h w"],
    plane: str,
    spacing: Sequence[float],
    window: Window = DISPLAY_HU,
    index: int | None = None,
    kind: str = "true",
    size: int = TILE,
) -> Image.Image:
    """One slice with its marks, the longest side of the volume `size` pixels.

    `kind` is `true`, `generated` (carries `SYNTHETIC`) or `error` (`volume` is a difference in HU: blue too low,
    red too high; carries the mark too, for it is made from a generated volume).
    """
    axis = PLANES.index(plane)
    if index is None:
        index = int(volume.shape[axis] * POSITIONS[plane])
    plain = np.asarray(display_slice(volume, plane, index).detach().cpu().float())
    if kind == "error":
        colours = colormaps["RdBu_r"](np.clip(plain / (2.0 * ERROR_HU) + 0.5, 0.0, 1.0))[..., :3]
        image = Image.fromarray((colours * 255).astype(np.uint8))
    else:
        image = Image.fromarray(_grey(plain, window)).convert("RGB")
    image = image.resize(_tile_size(volume.shape, spacing, plane, size), Image.Resampling.BICUBIC)
    dark = kind == "error"
    overlay = _overlay(image.size, DISPLAY_MARKS[plane], kind != "true", dark)
    image.paste(overlay, (0, 0), overlay)
    return image


def xray_tile(xray: Float[Tensor, "h w"], size: int = TILE) -> Image.Image:
    """An X-ray in `[0, 1]` with its marks, the longer side `size` pixels."""
    grey = (np.asarray(xray.detach().cpu().float()).clip(0.0, 1.0) * 255).astype(np.uint8)
    scale = size / max(grey.shape)
    target = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    image = Image.fromarray(grey).convert("RGB").resize(target, Image.Resampling.BICUBIC)
    overlay = _overlay(image.size, DISPLAY_MARKS["coronal"], False, False)
    image.paste(overlay, (0, 0), overlay)
    return image


def mark_synthetic(image: Image.Image) -> Image.Image:
    """A copy with `SYNTHETIC` burnt into its lower edge."""
    marked = image.convert("RGB")
    overlay = _overlay(marked.size, ("", "", "", ""), True, False)
    marked.paste(overlay, (0, 0), overlay)
    return marked


def _grey(plain: np.ndarray, window: Window) -> UInt8[np.ndarray, "h w"]:
    return (((plain - window.low) / window.width).clip(0.0, 1.0) * 255).astype(np.uint8)


def _tile_size(shape, spacing, plane: str, size: int) -> tuple[int, int]:
    extent = extent_mm(shape, spacing)
    scale = size / max(extent)
    rows, columns = {"axial": (1, 2), "coronal": (0, 2), "sagittal": (0, 1)}[plane]
    return max(1, round(extent[columns] * scale)), max(1, round(extent[rows] * scale))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@cache
def _overlay(size: tuple[int, int], marks: tuple[str, str, str, str], synthetic: bool, dark: bool) -> Image.Image:
    """Marks at the left, right, top and bottom edge, and the synthetic strip, as a transparent picture."""
    width, height = size
    overlay = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    strip = 0
    if synthetic:
        lines = [SYNTHETIC]
        if _font(9).getlength(SYNTHETIC) > width - 4:
            lines = SYNTHETIC.split(" - ")
        fitting = [p for p in range(6, max(9, width // 20) + 1) if max(map(_font(p).getlength, lines)) <= width - 4]
        points = max(fitting, default=6)
        strip = (points + 4) * len(lines)
        draw.rectangle((0, height - strip, width, height), fill=(0, 0, 0, 190))
        for row, line in enumerate(lines):
            middle = height - strip + (points + 4) * (row + 0.5)
            draw.text((width / 2, middle), line, font=_font(points), fill=(*ACCENT, 255), anchor="mm")
    ink, halo = ((20, 20, 20, 255), (255, 255, 255, 160)) if dark else ((120, 220, 255, 255), (0, 0, 0, 200))
    places = [(4, height / 2, "lm"), (width - 4, height / 2, "rm"), (width / 2, 3, "ma")]
    places.append((width / 2, height - strip - 3, "md"))
    for text, (x, y, anchor) in zip(marks, places, strict=True):
        draw.text((x, y), text, font=_font(12), fill=ink, anchor=anchor, stroke_width=1, stroke_fill=halo)
    return overlay
