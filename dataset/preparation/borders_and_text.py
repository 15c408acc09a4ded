"""What lies around or over the anatomy of a film: borders without a picture, and letters burnt into it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

FLAT = 0.01  # of the image's range: the spread along a line of pixels that shows nothing
MOST_CUT = 0.35  # of a side: a wider margin is no margin
TEXT_HEIGHT = (0.004, 0.06)  # of the image's height: letters and digits
TEXT_CONTRAST = 0.25  # of the image's range, above or below what surrounds a letter
FAINT = 0.04  # of the image's range: a letter over bone, next to letters that were found
SAME_INK = 0.04  # of the image's range: what letters of one line differ by; bone and vessels differ by more
FARTHEST = 20  # letters that a line is followed on either side
STROKE = 0.012  # of the image's height: the thickest stroke of a letter
FEWEST_LETTERS = 3  # in a row: one alone is a side marker or a bit of bone


def trim_border(image: Float[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Rows and columns that hold the picture, without the flat margins around it.

    A line of pixels belongs to a margin if nine tenths of it are one grey: letters burnt into a margin do not save it.
    A side whose margin were wider than 35 % is not cut.
    """
    rows, columns = slice(0, image.shape[0]), slice(0, image.shape[1])
    low, high = np.percentile(image, [0.5, 99.5])
    for _ in range(3):  # a margin at one side hides in the flatness of lines across it
        part = image[rows, columns]
        rows = _shrunk(rows, _flat_lines(part, 1, FLAT * (high - low)), image.shape[0])
        part = image[rows, columns]
        columns = _shrunk(columns, _flat_lines(part, 0, FLAT * (high - low)), image.shape[1])
    return rows, columns


def mask_text(image: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], int]:
    """The picture with lines of letters filled from their surroundings, and how many lines were.

    Letters are thin strokes of one height and one ink, much brighter or darker than what is around them, at least
    three in a row.
    """
    letters = text_lines(image)
    places, count = ndimage.label(letters)
    if not count:
        return image, 0
    filled = image.astype(np.float32, copy=True)
    for place in ndimage.find_objects(places):
        reach = max(3, (place[0].stop - place[0].start) // 4)
        around = tuple(
            slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(place, image.shape, strict=True)
        )
        ring = image[around][~letters[around]]
        filled[place] = np.median(ring) if ring.size else np.median(image)
    return filled, count


def text_lines(image: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """True in a rectangle around each line of letters."""
    height = image.shape[0]
    low, high = np.percentile(image, [0.5, 99.5])
    stroke = max(3, 2 * round(STROKE * height) + 1)
    found = np.zeros(image.shape, bool)
    for sign in (1.0, -1.0):
        values = sign * image.astype(np.float32) / max(float(high - low), 1e-6)
        # A top-hat leaves what is thinner than a stroke and brighter (or darker) than its surroundings.
        thin = ndimage.white_tophat(values, size=(stroke, stroke))
        for line in _lines(_letters(thin > TEXT_CONTRAST, values)):
            inked = (thin > FAINT) & (np.abs(values - line[0].ink) < 2 * SAME_INK)
            found[_followed(line, inked)] = True
    return found


class _Letter(NamedTuple):
    left: int
    right: int
    top: int
    bottom: int
    ink: float  # its brightest value

    @property
    def tall(self) -> int:
        return self.bottom - self.top


def _letters(strokes: np.ndarray, values: np.ndarray) -> list[_Letter]:
    """Connected strokes of the size of a letter, from left to right."""
    tallest, shortest = (
        max(least, part * len(strokes)) for least, part in zip((6, 4), TEXT_HEIGHT[::-1], strict=True)
    )
    labels, count = ndimage.label(strokes, np.ones((3, 3)))
    inks = ndimage.maximum(values, labels, range(1, count + 1))
    letters = [
        _Letter(place[1].start, place[1].stop, place[0].start, place[0].stop, float(ink))
        for place, ink in zip(ndimage.find_objects(labels), inks, strict=True)
    ]
    return sorted(one for one in letters if shortest <= one.tall <= tallest and one.right - one.left <= 2 * tallest)


def _lines(letters: list[_Letter]) -> list[list[_Letter]]:
    """Letters of one height, one level and one ink, each near the last."""
    lines = []
    while letters:
        line, rest = [letters[0]], []
        for other in letters[1:]:
            last, tall = line[-1], max(line[-1].tall, other.tall)
            level = abs(last.top + last.bottom - other.top - other.bottom) / 2
            fits = level <= 0.5 * tall and min(last.tall, other.tall) >= 0.5 * tall
            near = other.left - last.right <= 1.5 * tall
            (line if fits and near and abs(other.ink - line[0].ink) <= SAME_INK else rest).append(other)
        if len(line) >= FEWEST_LETTERS:
            lines.append(line)
        letters = rest
    return lines


def _followed(line: list[_Letter], inked: np.ndarray) -> tuple[slice, slice]:
    """The rectangle of a line, made longer where fainter strokes of its ink go on beside it."""
    top, bottom = min(one.top for one in line), max(one.bottom for one in line)
    step, width = bottom - top, inked.shape[1]
    pad = max(2, step // 4)
    rows = slice(max(0, top - pad), bottom + pad)
    left, right = max(0, line[0].left - pad), min(width, max(one.right for one in line) + pad)
    for _ in range(FARTHEST):
        if left > 0 and inked[rows, max(0, left - step) : left].mean() > 0.05:
            left = max(0, left - step)
        if right < width and inked[rows, right : right + step].mean() > 0.05:
            right = min(width, right + step)
    return rows, slice(left, right)


def _flat_lines(part: np.ndarray, axis: int, tolerance: float) -> np.ndarray:
    if not part.size:
        return np.zeros(0, bool)
    middle = np.median(part, axis=axis, keepdims=True)
    return (np.abs(part - middle) <= tolerance).mean(axis=axis) >= 0.9


def _shrunk(span: slice, flat: np.ndarray, whole: int) -> slice:
    busy = np.flatnonzero(~flat)
    if not len(busy):
        return span
    first, last = span.start + int(busy[0]), span.start + int(busy[-1]) + 1
    limit = MOST_CUT * whole
    return slice(first if first <= limit else span.start, last if whole - last <= limit else span.stop)
