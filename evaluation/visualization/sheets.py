"""Sheets and animations: X-ray, true CT, generated CT and error side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from dataset.imaging.geometry import PLANES
from dataset.imaging.hu_window import Window
from dataset.io.nifti import SYNTHETIC
from evaluation.visualization.slices import (
    ACCENT,
    BACKGROUND,
    DISPLAY_HU,
    ERROR_HU,
    INK,
    display_window,
    font,
    tile,
    xray_tile,
)

GIF_TILE, GIF_GREYS = 176, 32  # GIF compresses noise badly: 256 greys triple its size
GAP = 6


@dataclass
class CasePicture:
    """A row of a sheet: X-ray in `[0, 1]`, volumes in HU, spacing in mm `(D, H, W)`; `truth` None: unknown."""

    title: str
    xray: Float[Tensor, "h w"]
    truth: Float[Tensor, "d h w"] | None
    generated: Float[Tensor, "d h w"]
    spacing: tuple[float, float, float]


def case_sheet(cases: Sequence[CasePicture], window: Window) -> Image.Image:
    """A row per case: X-ray, then true CT, generated CT and error in the three planes.

    `window` is that of the model: the error is against the truth clipped to it, and grey levels are those that
    `display_window` shows of it.
    """
    rows, grey = [], display_window(window)
    for case in cases:
        tiles = [xray_tile(case.xray)]
        error = case.generated - case.truth.clamp(window.low, window.high).to(case.generated)
        for plane in PLANES:
            for volume, kind in ((case.truth, "true"), (case.generated, "generated"), (error, "error")):
                tiles.append(tile(volume, plane, case.spacing, grey, kind=kind))
        rows.append(tiles)
    heads = ["X-ray"] + [f"{kind}, {plane}" for plane in PLANES for kind in ("true CT", "generated CT", "error")]
    levels = f"{hu_levels(grey)}  Error, generated minus true: blue {-ERROR_HU:g} HU, white 0, red {ERROR_HU:g} HU."
    return table([case.title for case in cases], rows, heads, levels)


def overview_sheet(cases: Sequence[CasePicture], window: Window = DISPLAY_HU) -> Image.Image:
    """A row per case: X-ray, then generated CT in the three planes, then true CT where it is known."""
    rows = []
    for case in cases:
        tiles = [xray_tile(case.xray)]
        tiles += [tile(case.generated, plane, case.spacing, window, kind="generated") for plane in PLANES]
        if case.truth is None:
            tiles += [_empty(picture.size, "no CT exists") for picture in tiles[1:]]
        else:
            tiles += [tile(case.truth, plane, case.spacing, window, kind="true") for plane in PLANES]
        rows.append(tiles)
    heads = ["X-ray"] + [f"{kind}, {plane}" for kind in ("generated CT", "true CT") for plane in PLANES]
    return table([case.title for case in cases], rows, heads, hu_levels(window))


def hu_levels(window: Window) -> str:
    """The mark of generated volumes, and what the grey levels and the sagittal slices show."""
    return f"{SYNTHETIC}.  {_levels(window)}"


def _levels(window: Window) -> str:
    centre = (window.low + window.high) / 2.0
    shown = f"Grey: {window.low:g} to {window.high:g} HU (W {window.width:g}, L {centre:g})."
    return f"{shown}  Sagittal: through the right lung.  Grey bars of an X-ray: unknown pixels."


def _empty(size: tuple[int, int], text: str) -> Image.Image:
    image = Image.new("RGB", size, BACKGROUND)
    ImageDraw.Draw(image).text((size[0] / 2, size[1] / 2), text, font=font(12), fill=INK, anchor="mm")
    return image


def table(titles: list[str], rows: list[list[Image.Image]], heads: list[str], foot: str) -> Image.Image:
    """Rows of tiles below the heads of their columns, each row below its title."""
    widths = [max(picture.width for picture in column) for column in zip(*rows, strict=True)]
    heights = [max(t.height for t in tiles) for tiles in rows]
    head, caption, bottom = 24, 20, 30
    size = (sum(widths) + GAP * (len(widths) + 1), head + sum(heights) + (caption + GAP) * len(rows) + bottom)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + sum(widths[:k]) + GAP * k for k in range(len(widths))]
    for left, width, text in zip(lefts, widths, heads, strict=True):
        draw.text((left + width / 2, head / 2), text, font=font(13), fill=INK, anchor="mm")
    top = head
    for title, tiles, height in zip(titles, rows, heights, strict=True):
        draw.text((GAP, top + caption / 2), title, font=font(12), fill=INK, anchor="lm")
        for left, width, picture in zip(lefts, widths, tiles, strict=True):
            sheet.paste(picture, (left + (width - picture.width) // 2, top + caption + (height - picture.height) // 2))
        top += caption + height + GAP
    draw.text((GAP, size[1] - bottom / 2), foot, font=font(13), fill=ACCENT, anchor="lm")
    return sheet


def planes_picture(
    xray: Float[Tensor, "h w"] | None,
    volume: Float[Tensor, "d h w"],
    spacing,
    window: Window = DISPLAY_HU,
    size: int = 320,
    original: Float[Tensor, "h w"] | None = None,
) -> Image.Image:
    """An axial, a coronal and a sagittal slice of a generated volume.

    Beside it, if given, its X-ray as the model takes it, and before that the X-ray as it was given.
    """
    xrays = {"X-ray as given": original, "X-ray as the model takes it" if original is not None else "X-ray": xray}
    xrays = {title: picture for title, picture in xrays.items() if picture is not None}
    tiles = [xray_tile(picture, size) for picture in xrays.values()]
    tiles += [tile(volume, plane, spacing, window, kind="generated", size=size) for plane in PLANES]
    titles = [*xrays, *(f"generated CT, {plane}" for plane in PLANES)]
    return _side_by_side(tiles, titles, _levels(window) if xrays else "")


def case_frames(
    xray: Float[Tensor, "h w"],
    truth: Float[Tensor, "d h w"],
    generated: Float[Tensor, "d h w"],
    spacing,
    window: Window = DISPLAY_HU,
) -> list[Image.Image]:
    """A frame per coronal slice from anterior to posterior: X-ray, true CT, generated CT."""
    picture, count, frames = xray_tile(xray, GIF_TILE), truth.shape[1], []
    pairs = (truth.float(), "true"), (generated.float(), "generated")
    for index in range(count):
        tiles = [tile(volume, "coronal", spacing, window, index, kind, GIF_TILE) for volume, kind in pairs]
        titles = ["X-ray", "true CT", "generated CT"]
        frames.append(_side_by_side([picture, *tiles], titles, f"{index + 1} / {count}"))
    return frames


def volume_frames(
    volume: Float[Tensor, "d h w"], spacing, window: Window = DISPLAY_HU, frames: int | None = None
) -> list[Image.Image]:
    """Frames through a generated volume in three planes at once, by default as many as its longest side has voxels."""
    count, pictures = frames or max(volume.shape), []
    for number in range(count):
        tiles = [
            tile(volume, plane, spacing, window, number * volume.shape[axis] // count, "generated", GIF_TILE)
            for axis, plane in enumerate(PLANES)
        ]
        pictures.append(_side_by_side(tiles, list(PLANES), f"{number + 1} / {count}"))
    return pictures


def save_gif(path: Path, frames: Sequence[Image.Image], milliseconds: int = 90) -> None:
    """An endless GIF in `GIF_GREYS` greys; equal successive frames would be merged."""
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
        draw.text((left + picture.width / 2, head / 2), title, font=font(12), fill=INK, anchor="mm")
        image.paste(picture, (left, head + (size[1] - head - bottom - picture.height) // 2))
        left += picture.width + GAP
    draw.text((GAP, size[1] - bottom / 2), foot, font=font(11), fill=INK, anchor="lm")
    return image
