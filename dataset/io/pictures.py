"""Pictures of X-rays (PNG, JPEG, TIFF …) as a viewer shows them: upright, bright where the file says white."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UserError
from common.file_limits import expect_pixels

IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")  # by content; not EPS, for which Pillow starts Ghostscript
# errors of Pillow and NumPy for damaged files
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF tag
SUBFILE, REDUCED = 254, 1  # TIFF tag, bit of a smaller version of another page
UNINVERTED = ("I;16", "F")  # modes that Pillow leaves as stored where white is zero


def read_picture(path: str | Path) -> tuple[np.ndarray, str, object]:
    """The pixels, Pillow's mode and the transparent value (None if there is none) of a file with one picture.

    Orientation (EXIF, XMP, TIFF) and polarity (TIFF) of the file are applied. Previews and gain maps beside the
    picture do not count. UserError for several pictures, and for a file that is damaged or no picture.
    """
    try:
        # a file object, since Pillow maps a turned TIFF that it opens by its name with rows and columns exchanged
        with open(path, "rb") as file, Image.open(file, formats=IMAGE_FORMATS) as picture:
            expect_pixels(picture.size, path)
            pages = _pages(picture)
            if len(pages) != 1:
                raise UserError(f"{path}: {len(pages)} frames where an X-ray is one image; export a single frame")
            picture.seek(pages[0])
            picture.load()  # turns a TIFF, which is not turned again below
            white_is_zero = getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
            shown = ImageOps.exif_transpose(picture)
            array = np.asarray(shown.convert("RGB") if shown.mode == "P" else shown)
            mode, transparent = shown.mode, picture.info.get("transparency")
    except (UnidentifiedImageError, *IMAGE_ERRORS, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image or damaged ({error}); give a PNG, JPEG, DICOM or NIfTI file") from error
    if white_is_zero and mode in UNINVERTED:
        array = array.max() - array
    return array, mode, transparent


def _pages(picture: Image.Image) -> list[int]:
    """The frames that are pictures of their own."""
    if picture.format == "MPO":  # a JPEG of a camera, followed by its preview
        return [0]
    pages = range(getattr(picture, "n_frames", 1))
    if picture.format != "TIFF" or len(pages) == 1:
        return list(pages)
    own = []
    for page in pages:
        picture.seek(page)
        if not picture.tag_v2.get(SUBFILE, 0) & REDUCED:
            own.append(page)
    return own
