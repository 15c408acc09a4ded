"""Evidence maps in colours over slices of a volume: orange where samples vary as training volumes do, else blue."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from dataset.imaging.geometry import PLANES
from dataset.imaging.hu_window import Window
from evaluation.visualization.sheets import GAP, CasePicture, hu_levels, table
from evaluation.visualization.slices import BACKGROUND, DISPLAY_HU, INK, font, slice_values, tile, xray_tile

COLOURS = ((0.0, (230, 97, 1)), (0.5, (200, 200, 200)), (1.0, (26, 132, 214)))  # also in demo/page/viewer/overlays.js
OPACITY = 0.5
LEGEND = (480, 48)  # pixels


def evidence_colours(evidence: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """RGB of evidence from 0 to 1; black where it is NaN."""
    places, colours = zip(*COLOURS, strict=True)
    rgb = [np.interp(evidence, places, channel) for channel in zip(*colours, strict=True)]
    return np.nan_to_num(np.stack(rgb, axis=-1)).round().astype(np.uint8)


def evidence_tile(
    volume: Float[Tensor, "d h w"],
    evidence: Float[Tensor, "d h w"],
    plane: str,
    spacing: Sequence[float],
    window: Window = DISPLAY_HU,
) -> Image.Image:
    """A slice of a generated volume with its evidence map; grey alone where the map is NaN."""
    shown = slice_values(evidence, plane)
    opacity = np.where(np.isnan(shown), 0, round(255 * OPACITY)).astype(np.uint8)
    over = Image.fromarray(np.dstack([evidence_colours(shown), opacity]))
    return tile(volume, plane, spacing, window, kind="generated", over=over)


def evidence_sheet(
    cases: Sequence[CasePicture], maps: Sequence[Float[Tensor, "d h w"]], window: Window = DISPLAY_HU
) -> Image.Image:
    """A row per case: X-ray, then true CT, generated CT and its evidence map in the three planes, with a legend."""
    rows = []
    for case, evidence in zip(cases, maps, strict=True):
        tiles = [xray_tile(case.xray)]
        for plane in PLANES:
            tiles.append(tile(case.truth, plane, case.spacing, window, kind="true"))
            tiles.append(tile(case.generated, plane, case.spacing, window, kind="generated"))
            tiles.append(evidence_tile(case.generated, evidence, plane, case.spacing, window))
        rows.append(tiles)
    heads = ["X-ray"] + [f"{kind}, {plane}" for plane in PLANES for kind in ("true CT", "mean", "evidence")]
    sheet = table([case.title for case in cases], rows, heads, hu_levels(window))
    legend = legend_picture()
    whole = Image.new("RGB", (sheet.width, sheet.height + legend.height + GAP), BACKGROUND)
    whole.paste(sheet, (0, 0))
    whole.paste(legend, (GAP, sheet.height))
    return whole


def legend_picture() -> Image.Image:
    """A bar of the colours from 0 % to 100 %, with what the samples do there."""
    width, height = LEGEND
    bar = evidence_colours(np.broadcast_to(np.linspace(0.0, 1.0, width), (height // 2, width)))
    texts = (
        "Evidence: 0 %: samples vary like the training volumes",
        "100 %: samples agree (not checked against a truth)",
    )
    before, after = (round(font(22).getlength(text)) + 2 * GAP for text in texts)
    image = Image.new("RGB", (before + width + after, height), BACKGROUND)
    image.paste(Image.fromarray(bar), (before, height // 4))
    draw = ImageDraw.Draw(image)
    draw.text((0, height / 2), texts[0], font=font(22), fill=INK, anchor="lm")
    draw.text((before + width + GAP, height / 2), texts[1], font=font(22), fill=INK, anchor="lm")
    return image
