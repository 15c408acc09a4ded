"""Pictures of volumes: tiles as radiologists read them, a sheet of cases, GIFs; generated ones carry their mark.

Slices are turned by `dataset.geometry.display_slice` alone and stretched to their true proportions in mm. Grey levels
run over `DISPLAY_HU`, or over the model's window where that is narrower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps, get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dataset.geometry import DISPLAY_MARKS, display_slice, extent_mm
from dataset.intensity import Window
from dataset.volume_io import SYNTHETIC

DISPLAY_HU = Window(-1000.0, 500.0)
ERROR_HU = 500.0  # differences of this size have the full colour
TILE = 208  # pixels of the longest side of a volume
GIF_TILE, GIF_GREYS = 176, 32  # a GIF stores noise badly: with 256 greys it is three times as large
PLANES = ("axial", "coronal", "sagittal")
POSITIONS = {"axial": 0.5, "coronal": 0.5, "sagittal": 0.3}  # sagittals through the right lung, not through the spine
GAP = 6
BACKGROUND, INK, ACCENT = (16, 18, 22), (225, 228, 232), (255, 196, 0)


@dataclass
class CasePicture:
    """What one row of the sheet shows: X-rays `(h, w)` in `[0, 1]`, volumes `(D, H, W)` in HU, spacing in mm."""

    title: str
    xray: Float[Tensor, "h w"]
    truth: Float[Tensor, "d h w"]
    generated: Float[Tensor, "d h w"]
    spacing: tuple[float, float, float]


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


def case_sheet(cases: Sequence[CasePicture], window: Window = DISPLAY_HU) -> Image.Image:
    """A row per case: X-ray, then true CT, generated CT and error in each of the three planes."""
    rows = []
    for case in cases:
        tiles = [xray_tile(case.xray)]
        for plane in PLANES:
            tiles.append(tile(case.truth, plane, case.spacing, window))
            tiles.append(tile(case.generated, plane, case.spacing, window, kind="generated"))
            difference = case.generated - case.truth.clamp(window.low, window.high).to(case.generated)
            tiles.append(tile(difference, plane, case.spacing, window, kind="error"))
        rows.append(tiles)
    heads = ["X-ray"] + [f"{kind}, {plane}" for plane in PLANES for kind in ("true CT", "generated CT", "error")]
    widths = [max(tiles[k].width for tiles in rows) for k in range(len(heads))]
    heights = [max(t.height for t in tiles) for tiles in rows]
    head, caption, foot = 24, 20, 30
    size = (sum(widths) + GAP * (len(widths) + 1), head + sum(heights) + (caption + GAP) * len(rows) + foot)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + sum(widths[:k]) + GAP * k for k in range(len(widths))]
    for left, width, text in zip(lefts, widths, heads, strict=True):
        draw.text((left + width / 2, head / 2), text, font=_font(13), fill=INK, anchor="mm")
    top = head
    for case, tiles, height in zip(cases, rows, heights, strict=True):
        draw.text((GAP, top + caption / 2), case.title, font=_font(12), fill=INK, anchor="lm")
        for left, width, picture in zip(lefts, widths, tiles, strict=True):
            sheet.paste(picture, (left + (width - picture.width) // 2, top + caption + (height - picture.height) // 2))
        top += caption + height + GAP
    levels = f"{SYNTHETIC}.  Grey: {window.low:g} to {window.high:g} HU.  Error, generated minus true: "
    levels += f"blue {-ERROR_HU:g} HU, white 0, red {ERROR_HU:g} HU."
    draw.text((GAP, size[1] - foot / 2), levels, font=_font(13), fill=ACCENT, anchor="lm")
    return sheet


def planes_picture(
    xray: Float[Tensor, "h w"] | None,
    volume: Float[Tensor, "d h w"],
    spacing,
    window: Window = DISPLAY_HU,
    size: int = 320,
) -> Image.Image:
    """One generated volume: an axial, a coronal and a sagittal slice, beside its X-ray if that is given."""
    tiles = [] if xray is None else [xray_tile(xray, size)]
    tiles += [tile(volume, plane, spacing, window, kind="generated", size=size) for plane in PLANES]
    return _side_by_side(tiles, ["X-ray"] * (xray is not None) + [f"generated CT, {plane}" for plane in PLANES])


def case_frames(
    xray: Float[Tensor, "h w"],
    truth: Float[Tensor, "d h w"],
    generated: Float[Tensor, "d h w"],
    spacing,
    window: Window = DISPLAY_HU,
) -> list[Image.Image]:
    """A frame per coronal slice from front to back: X-ray, true CT, generated CT, as the X-ray looks at them."""
    picture, count, frames = xray_tile(xray, GIF_TILE), truth.shape[1], []
    truth, generated = truth.float(), generated.float()
    for index in range(count):
        tiles = [
            picture,
            tile(truth, "coronal", spacing, window, index, size=GIF_TILE),
            tile(generated, "coronal", spacing, window, index, "generated", GIF_TILE),
        ]
        frames.append(_side_by_side(tiles, ["X-ray", "true CT", "generated CT"], _position(index, count)))
    return frames


def volume_frames(
    volume: Float[Tensor, "d h w"], spacing, window: Window = DISPLAY_HU, frames: int | None = None
) -> list[Image.Image]:
    """Frames that run through a generated volume in three planes at once; as many as its longest side has voxels."""
    count = frames or max(volume.shape)
    pictures = []
    for number in range(count):
        tiles = [
            tile(volume, plane, spacing, window, number * volume.shape[axis] // count, "generated", GIF_TILE)
            for axis, plane in enumerate(PLANES)
        ]
        pictures.append(_side_by_side(tiles, list(PLANES), _position(number, count)))
    return pictures


def save_gif(path: Path, frames: Sequence[Image.Image], milliseconds: int = 90) -> None:
    """An endless GIF in `GIF_GREYS` greys; a frame that equals the one before would be merged with it."""
    steps = GIF_GREYS - 1
    grey = [frame.convert("L").point([round(v * steps / 255) * 255 // steps for v in range(256)]) for frame in frames]
    grey[0].save(path, save_all=True, append_images=grey[1:], duration=milliseconds, loop=0)


def _side_by_side(tiles: list[Image.Image], titles: list[str], foot: str = "") -> Image.Image:
    head, bottom = 22, 18 if foot else GAP
    size = (sum(t.width for t in tiles) + GAP * (len(tiles) + 1), max(t.height for t in tiles) + head + bottom)
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    left = GAP
    for picture, title in zip(tiles, titles, strict=True):
        draw.text((left + picture.width / 2, head / 2), title, font=_font(12), fill=INK, anchor="mm")
        image.paste(picture, (left, head + (size[1] - head - bottom - picture.height) // 2))
        left += picture.width + GAP
    draw.text((GAP, size[1] - bottom / 2), foot, font=_font(11), fill=INK, anchor="lm")
    return image


def _position(index: int, count: int) -> str:
    return f"{index + 1} / {count}"


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
