"""Outlines of the lungs over X-ray and film: those of the generated volume, projected, and those in the X-ray."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from dataset.imaging.unknown_pixels import split_unknown
from dataset.io.xray import undo_resize
from demo.service.messages import PNG_LEVEL
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.scoring.film_lungs import COLOURS, alignment_of, dice, lungs_on_xray
from evaluation.visualization import slices as pictures

STAMP = ("given X-ray; red: lungs of the synthetic volume", "not for diagnosis")  # lines, on each picture
SIDE, LINE = 512, 3  # pixels of the longer side, and of the width of an outline


def draw_lungs(
    path: Path, film_path: Path, samples: Float[Tensor, "n d h w"], shown: GeneratorInput, film: Image.Image, regressor
) -> str:
    """Writes X-ray and film with both outlines, and returns one line: their Dice, or what is missing.

    Args:
        path: of the X-ray as the model sees it.
        film_path: of the film as given, before any alignment.
        samples: HU of the volumes.
        film: picture of the film.
        regressor: of the pose, or None.
    """
    volume, xray = lungs_on_xray(samples, shown, regressor)
    masks = {"network": xray, "volume": volume}
    _draw(pictures.xray_tile(shown.picture, SIDE), masks).save(path, compress_level=PNG_LEVEL)
    _draw(film, {name: _on_film(mask, shown, film.size) for name, mask in masks.items()}).save(
        film_path, compress_level=PNG_LEVEL
    )
    missing = [place for place, mask in (("the volume", volume), ("the X-ray", xray)) if not mask.any()]
    if missing:
        return f"No lungs found in {' or in '.join(missing)}, so their outlines are not compared."
    return f"Lungs of the volume, projected, against those found in the X-ray: Dice {dice(volume, xray):.2f}."


def _draw(picture: Image.Image, masks: dict[str, np.ndarray]) -> Image.Image:
    drawn = np.array(picture)
    for name, mask in masks.items():
        drawn[_outline(mask, picture.size)] = COLOURS[name]
    return _stamped(Image.fromarray(drawn))


def _stamped(picture: Image.Image) -> Image.Image:
    """The picture with `STAMP` over its lower edge."""
    width, height = picture.size
    points = max(6, int(min(width / 32, 96 * width / max(map(pictures.font(100).getlength, STAMP)))))
    draw, row = ImageDraw.Draw(picture), points + 4
    draw.rectangle((0, height - row * len(STAMP), width, height), fill=pictures.BACKGROUND)
    for number, line in enumerate(reversed(STAMP)):
        place = width / 2, height - row * (number + 0.5)
        draw.text(place, line, font=pictures.font(points), fill=pictures.ACCENT, anchor="mm")
    return picture


def _on_film(mask: Bool[np.ndarray, "s s"], shown: GeneratorInput, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask in the frame of `shown.picture` on a film of `size` (width, height)."""
    inside, alignment = torch.from_numpy(mask).float(), alignment_of(shown)
    if alignment is not None:
        inside, _ = split_unknown(alignment.inverse.apply(inside))
    return (undo_resize(inside, size[::-1]) >= 0.5).numpy()


def _outline(mask: Bool[np.ndarray, "s s"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    fine = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC)) > 127
    return fine & ~ndimage.binary_erosion(fine, iterations=LINE, border_value=1)
