"""Borders without anatomy and burned-in text of a radiograph."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

# Grey values are shares of the range of the image, lengths shares of its height.
FLAT = 0.01  # largest deviation from the median in a uniform row or column
MAX_BORDER = 0.35  # widest border, as a share of the side
TEXT_HEIGHT = (0.004, 0.06)  # height of letters and digits
TEXT_CONTRAST = 0.25  # smallest contrast of a letter to its surroundings
FAINT_CONTRAST = 0.04  # the same next to letters that were found
SAME_INK = 0.04  # largest difference of the brightest values of letters of one line
MAX_LETTERS = 20  # letters by which a line is extended on either side
STROKE = 0.012  # thickest stroke of a letter
MIN_LETTERS = 3  # in a line: one alone is a side marker or a part of a bone


def trim_border(image: Float[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Rows and columns without the uniform borders of the image.

    A row or column is border if nine tenths of it have one grey value, so text in a border does not keep it. A border
    wider than 35 % of the side is not cut.
    """
    spans = [slice(0, n) for n in image.shape]
    low, high = np.percentile(image, [0.5, 99.5])
    for axis in (0, 1) * 3:  # without border rows more columns may be uniform
        part, limit = image[tuple(spans)], MAX_BORDER * image.shape[axis]
        middle = np.median(part, axis=1 - axis, keepdims=True)
        uniform = (np.abs(part - middle) <= FLAT * (high - low)).mean(axis=1 - axis) >= 0.9
        if not uniform.all():
            first = spans[axis].start + int(np.argmin(uniform))
            last = spans[axis].stop - int(np.argmin(uniform[::-1]))
            spans[axis] = slice(
                first if first <= limit else spans[axis].start,
                last if image.shape[axis] - last <= limit else spans[axis].stop,
            )
    return tuple(spans)


def mask_text(image: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, "h w"], int]:
    """The image with lines of text filled with the median of their surroundings, and the number of filled places.

    A line of text is at least three letters of about one height and brightness: thin strokes, much brighter or darker
    than their surroundings.
    """
    text = text_lines(image)
    places, count = ndimage.label(text)
    if not count:
        return image, 0
    filled = image.astype(np.float32, copy=True)
    for place in ndimage.find_objects(places):
        reach = max(3, (place[0].stop - place[0].start) // 4)
        around = tuple(
            slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(place, image.shape, strict=True)
        )
        ring = image[around][~text[around]]
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
        # A top-hat keeps what is thinner than a stroke and brighter (or darker) than its surroundings.
        thin = ndimage.white_tophat(values, size=(stroke, stroke))
        for line in _lines(_letters(thin > TEXT_CONTRAST, values)):
            inked = (thin > FAINT_CONTRAST) & (np.abs(values - line[0].ink) < 2 * SAME_INK)
            found[_extended(line, inked)] = True
    return found


class _Letter(NamedTuple):
    left: int
    right: int
    top: int
    bottom: int
    tall: int
    ink: float  # brightest value


def _letters(strokes: np.ndarray, values: np.ndarray) -> list[_Letter]:
    """Connected strokes of the size of a letter, from left to right."""
    shortest, tallest = (max(n, share * len(strokes)) for n, share in zip((4, 6), TEXT_HEIGHT, strict=True))
    labels, count = ndimage.label(strokes, np.ones((3, 3)))
    inks = ndimage.maximum(values, labels, range(1, count + 1))
    letters = [
        _Letter(across.start, across.stop, down.start, down.stop, down.stop - down.start, float(ink))
        for (down, across), ink in zip(ndimage.find_objects(labels), inks, strict=True)
    ]
    return sorted(one for one in letters if shortest <= one.tall <= tallest and one.right - one.left <= 2 * tallest)


def _lines(letters: list[_Letter]) -> list[list[_Letter]]:
    """Lines of letters: similar height, position and brightness, each letter near the previous one."""
    lines = []
    while letters:
        line, rest = [letters[0]], []
        for other in letters[1:]:
            last, tall = line[-1], max(line[-1].tall, other.tall)
            level = abs(last.top + last.bottom - other.top - other.bottom) / 2
            fits = level <= 0.5 * tall and min(last.tall, other.tall) >= 0.5 * tall
            near = other.left - last.right <= 1.5 * tall
            (line if fits and near and abs(other.ink - line[0].ink) <= SAME_INK else rest).append(other)
        if len(line) >= MIN_LETTERS:
            lines.append(line)
        letters = rest
    return lines


def _extended(line: list[_Letter], inked: np.ndarray) -> tuple[slice, slice]:
    """The rectangle of a line, extended over fainter strokes of the same brightness beside it."""
    top, bottom = min(one.top for one in line), max(one.bottom for one in line)
    step, width = bottom - top, inked.shape[1]
    pad = max(2, step // 4)
    rows = slice(max(0, top - pad), bottom + pad)
    left, right = max(0, line[0].left - pad), min(width, max(one.right for one in line) + pad)
    for _ in range(MAX_LETTERS):
        if left > 0 and inked[rows, max(0, left - step) : left].mean() > 0.05:
            left = max(0, left - step)
        if right < width and inked[rows, right : right + step].mean() > 0.05:
            right = min(width, right + step)
    return rows, slice(left, right)
