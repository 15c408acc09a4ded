"""Slices of volumes in radiological orientation, scaled to mm; generated ones carry the mark `SYNTHETIC`."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dataset.imaging.geometry import DISPLAY_MARKS, PLANES, display_slice, extent_mm
from dataset.imaging.hu_window import Window
from dataset.io.nifti import SYNTHETIC

DISPLAY_HU = Window(-1000.0, 500.0)
ERROR_HU = 500.0  # differences of this size have the full colour
TILE = 208  # pixels of the longest side of a volume
POSITIONS = {"axial": 0.5, "coronal": 0.5, "sagittal": 0.3}  # sagittals through the right lung, not through the spine
UNKNOWN_GREY = 112  # level of pixels that an X-ray does not show
BACKGROUND, INK, ACCENT = (16, 18, 22), (225, 228, 232), (255, 196, 0)


def display_window(window: Window) -> Window:
    """Grey levels for volumes clipped to `window`: its overlap with `DISPLAY_HU`."""
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
    over: Image.Image | None = None,
) -> Image.Image:
    """One slice with its marks, the longest side of the volume `size` pixels.

    `kind` is `true`, `generated` (with `SYNTHETIC`) or `error` (`volume` is a difference in HU: blue too low, red too
    high; with `SYNTHETIC` too). `over` is an RGBA picture of the voxels of the slice, drawn over it.
    """
    axis, error = PLANES.index(plane), kind == "error"
    hu = slice_values(volume, plane, index)
    if error:
        image = Image.fromarray(error_colours(hu, ERROR_HU))
    else:
        grey = ((hu - window.low) / window.width).clip(0.0, 1.0)
        image = Image.fromarray((grey * 255).astype(np.uint8)).convert("RGB")
    if over is not None:
        image.paste(over, (0, 0), over)
    extent = extent_mm(volume.shape, spacing)
    height, width = (max(1, round(e * (size / max(extent)))) for i, e in enumerate(extent) if i != axis)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _marked(image, DISPLAY_MARKS[plane], synthetic=kind != "true", dark=error)


def slice_values(volume: Float[Tensor, "d h w"], plane: str, index: int | None = None) -> Float[np.ndarray, "h w"]:
    """The values of a slice as it is displayed; None takes that of `POSITIONS`."""
    index = int(volume.shape[PLANES.index(plane)] * POSITIONS[plane]) if index is None else index
    return np.asarray(display_slice(volume, plane, index).detach().cpu().float())


def error_colours(difference: Float[np.ndarray, "h w"], full: float) -> np.ndarray:
    """RGB of differences from blue at `-full` over white to red at `full`; grey where they are unknown (NaN)."""
    from matplotlib import colormaps  # late: a generation draws no errors

    colours = colormaps["RdBu_r"](np.clip(difference / (2.0 * full) + 0.5, 0.0, 1.0))[..., :3] * 255
    return np.where(np.isnan(difference)[..., None], UNKNOWN_GREY, colours).astype(np.uint8)


def xray_grey(xray: Float[Tensor, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Grey levels of an X-ray in `[0, 1]`; `UNKNOWN_GREY` where it is unknown."""
    values = np.asarray(xray.detach().cpu().float()).clip(0.0, 1.0) * 255
    return np.where(np.isnan(values), UNKNOWN_GREY, values).astype(np.uint8)


def xray_tile(xray: Float[Tensor, "h w"], size: int = TILE) -> Image.Image:
    """An X-ray in `[0, 1]` with its marks, the longer side `size` pixels."""
    grey = xray_grey(xray)
    height, width = (round(n * (size / max(grey.shape))) for n in grey.shape)
    image = Image.fromarray(grey).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return _marked(image, DISPLAY_MARKS["coronal"])


def mark_synthetic(image: Image.Image) -> Image.Image:
    """An RGB copy with `SYNTHETIC` at its lower edge."""
    return _marked(image.convert("RGB"), ("", "", "", ""), synthetic=True)


def _marked(image: Image.Image, marks: tuple, synthetic: bool = False, dark: bool = False) -> Image.Image:
    overlay = _overlay(image.size, marks, synthetic, dark)
    image.paste(overlay, (0, 0), overlay)
    return image


def font_file(name: str) -> str:
    """A font that comes with matplotlib, which is found and not imported: that takes longer than the picture."""
    return f"{find_spec('matplotlib').submodule_search_locations[0]}/mpl-data/fonts/ttf/{name}.ttf"


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file("DejaVuSans"), size)


@cache
def _overlay(size: tuple[int, int], marks: tuple[str, str, str, str], synthetic: bool, dark: bool) -> Image.Image:
    """Transparent picture with marks at the left, right, top and bottom edge, and the synthetic strip."""
    (width, height), strip = size, 0
    overlay = Image.new("RGBA", size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    if synthetic:
        lines = [SYNTHETIC] if font(9).getlength(SYNTHETIC) <= width - 4 else SYNTHETIC.split(" - ")
        fitting = [p for p in range(6, max(9, width // 20) + 1) if max(map(font(p).getlength, lines)) <= width - 4]
        points = max(fitting, default=6)
        strip = (points + 4) * len(lines)
        draw.rectangle((0, height - strip, width, height), fill=(0, 0, 0, 190))
        for row, line in enumerate(lines):
            middle = height - strip + (points + 4) * (row + 0.5)
            draw.text((width / 2, middle), line, font=font(points), fill=(*ACCENT, 255), anchor="mm")
    ink, halo = ((20, 20, 20, 255), (255, 255, 255, 160)) if dark else ((120, 220, 255, 255), (0, 0, 0, 200))
    places = [(4, height / 2, "lm"), (width - 4, height / 2, "rm"), (width / 2, 3, "ma")]
    for text, (x, y, anchor) in zip(marks, [*places, (width / 2, height - strip - 3, "md")], strict=True):
        draw.text((x, y), text, font=font(12), fill=ink, anchor=anchor, stroke_width=1, stroke_fill=halo)
    return overlay
