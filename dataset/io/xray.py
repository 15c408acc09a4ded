"""Reader of X-rays: a grey image in [0, 1] with bright bone, NaN where unknown.

Formats are PNG, JPEG, TIFF, NPY, DICOM, NIfTI and X2CT-GAN's HDF5 (`<file>#xray1`, `dataset/io/volume_files.py`).
A DICOM header (`dataset/io/xray_dicom.py`) or a NIfTI affine gives the orientation: columns toward the patient's left,
of a lateral toward posterior, rows downward, of an axial slice toward posterior. The reader takes other formats as
displayed, so a lateral has to face left.
"""

import logging
import tokenize
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from common.file_limits import expect_pixels
from common.files import visible
from dataset.imaging.drr import scale_xray
from dataset.imaging.unknown_pixels import UNKNOWN, resampled
from dataset.io.file_kind import kind_of
from dataset.io.nifti import NIFTI_ENDINGS, open_nifti
from dataset.io.pictures import IMAGE_ERRORS, read_picture
from dataset.io.volume_files import read_x2ct_xray, x2ct_pose
from dataset.io.xray_dicom import XrayImage, has_image, read_dicom_xray

log = logging.getLogger(__name__)

XRAY_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".dcm", ".dicom", *NIFTI_ENDINGS)
COLOUR_TOLERANCE = 0.02  # of the range: difference of the colour channels of a grey JPEG by rounding
REFUSED = {"lateral": "a lateral view", "other": "an oblique, decubitus or lordotic view"}
SMALLEST = 16  # pixels along each side
LARGEST_ASPECT = 3.0  # of a chest X-ray


def read_xray(path: str | Path, size: tuple[int, int] = (128, 128), lateral: bool = False) -> Float[Tensor, "h w"]:
    """The X-ray of `read_xray_with_header`."""
    return read_xray_with_header(path, size, lateral)[0]


def read_xray_with_header(
    path: str | Path, size: tuple[int, int] = (128, 128), lateral: bool = False, colour: bool = False
) -> tuple[Float[Tensor, "h w"], XrayImage]:
    """The X-ray in `[0, 1]`, bright bone, row 0 superior, and what its file says (view, notes).

    What it does not show (padding, shutter) is NaN (`dataset.imaging.unknown_pixels`).

    `scale_xray` and `resize_xray` give its range and size. UserError for a file that `read_xray_image` refuses, a
    lateral view without `lateral`, an oblique, decubitus or lordotic view, or Burned In Annotation YES. `colour` is
    that of `read_xray_image`.
    """
    xray = read_xray_image(path, colour)
    if xray.view == "other" or (xray.view == "lateral" and not lateral):
        wanted = "lateral" if lateral else "frontal chest"
        raise UserError(f"{path}: {REFUSED[xray.view]}; give a {wanted} X-ray")
    if xray.burned_in:
        raise UserError(
            f"{path}: Burned In Annotation is YES, text in the image may name the patient; mask it with "
            "python dataset/prepare.py mask_text=true, or by hand and export it as PNG"
        )
    return resize_xray(scale_xray_image(xray), size).clamp(0.0, 1.0), xray


def read_xray_image(path: str | Path, colour: bool = False) -> XrayImage:
    """The X-ray in its own size and scale, with view and spacing of its header.

    `colour` accepts colour pictures, as the mean of their channels. UserError for a file that is missing, damaged, not
    an image, in colour, transparent, constant or of several frames.
    """
    path = Path(path)
    if x2ct_pose(path) is not None:
        file, _, name = str(path).rpartition("#")
        xray = XrayImage(read_x2ct_xray(Path(file), name))
        _check(xray, path)
        return xray
    if not path.is_file():
        raise UserError(f"{path}: no such file; give an X-ray as PNG, JPEG, NPY, DICOM or NIfTI")
    lower, kind = path.name.lower(), kind_of(path)
    if kind == "nifti" or (not kind and lower.endswith(NIFTI_ENDINGS)):
        xray = XrayImage(_read_nifti(path))
    elif kind == "dicom" or (not kind and lower.endswith((".dcm", ".dicom"))):
        xray = read_dicom_xray(path)
    elif kind == "npy" or (not kind and lower.endswith(".npy")):
        xray = XrayImage(_read_npy(path, colour))
    else:
        xray = _read_image(path, colour)
    _check(xray, path)
    return xray


def scale_xray_image(xray: XrayImage) -> Float[Tensor, "h w"]:
    """The image in `[0, 1]` by `dataset.imaging.drr.scale_xray`; pixels that were not exposed are NaN."""
    image = torch.from_numpy(np.ascontiguousarray(xray.image, dtype=np.float32))
    return scale_xray(image, None if xray.inside is None else torch.from_numpy(xray.inside.copy()))


def resize_xray(image: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "rows columns"]:
    """The image padded with NaN around its centre to the aspect of `size`, then resized with a low-pass filter."""
    height, width = image.shape
    wanted_height = max(height, round(width * size[0] / size[1]))
    wanted_width = max(width, round(wanted_height * size[1] / size[0]))
    top, left = (wanted_height - height) // 2, (wanted_width - width) // 2
    pad = (left, wanted_width - width - left, top, wanted_height - height - top)
    options = {"size": tuple(size), "mode": "bilinear", "antialias": True}
    return resampled(F.pad(image, pad, value=UNKNOWN)[None, None], lambda x: F.interpolate(x, **options))[0, 0]


def undo_resize(image: Float[Tensor, "rows columns"], shape: tuple[int, int]) -> Float[Tensor, "h w"]:
    """The inverse of `resize_xray`: the part of `image` that shows an X-ray of `shape` pixels, at that size."""
    height, width = shape
    wanted_height = max(height, round(width * image.shape[0] / image.shape[1]))
    wanted_width = max(width, round(wanted_height * image.shape[1] / image.shape[0]))
    whole = F.interpolate(image[None, None].float(), size=(wanted_height, wanted_width), mode="bilinear")[0, 0]
    top, left = (wanted_height - height) // 2, (wanted_width - width) // 2
    return whole[top : top + height, left : left + width]


def find_xrays(folder: str | Path) -> list[Path]:
    """X-ray files directly in a folder, sorted by name, by their ending or content; UserError if there is none.

    DICOM files without an image (reports, presentation states, DICOMDIR) are left out, which a warning says.
    """
    folder = Path(folder)
    found = visible(path for path in folder.iterdir() if path.is_file() and _may_be_xray(path))
    without = [path for path in found if kind_of(path) == "dicom" and not has_image(path)]
    if without:
        log.warning(
            "%s: %d DICOM files without an image are left out, such as %s", folder, len(without), without[0].name
        )
    found = [path for path in found if path not in without]
    if not found:
        raise UserError(f"{folder}: no X-ray in it; put {', '.join(XRAY_ENDINGS)} there, not in folders below it")
    return found


def _may_be_xray(path: Path) -> bool:
    kinds = ("dicom",) if path.suffix else ("dicom", "picture", "npy", "nifti")
    return path.name.lower().endswith(XRAY_ENDINGS) or kind_of(path) in kinds


def _check(xray: XrayImage, path: Path) -> None:
    box = ... if xray.inside is None else ndimage.find_objects(xray.inside.astype(np.uint8))[0]
    image = xray.image[box]
    if image.ndim != 2:
        raise UserError(f"{path}: shape {list(image.shape)} where an X-ray is one grey image; export a single frame")
    if not np.isfinite(image).all():
        raise UserError(f"{path}: NaN or infinite pixels; export the X-ray again")
    if min(image.shape) < SMALLEST or max(image.shape) > LARGEST_ASPECT * min(image.shape):
        raise UserError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels; give a whole frontal chest X-ray")
    # percentiles as in the scaling: a blank image with one bright pixel is still blank
    exposed = image if xray.inside is None else xray.image[xray.inside]
    low, high = np.percentile(exposed, [0.5, 99.5])
    if not high > low:
        raise UserError(f"{path}: (almost) every pixel is {np.median(exposed):g}; the image is blank, export it again")


def _read_image(path: Path, colour: bool) -> XrayImage:
    """A picture; pixels of the transparent grey value of a PNG (chunk tRNS) were not exposed."""
    array, mode, transparent = read_picture(path)
    if mode in ("RGBA", "LA") and (array[..., -1] == 255).all():  # opaque, as of screenshots
        array, mode = (array[..., 0], "L") if mode == "LA" else (array[..., :3], "RGB")
    grey = mode in ("L", "I", "F", "1") or mode.startswith("I;16")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparent is not None and not grey:
        raise UserError(f"{path}: has an alpha channel (mode {mode}); export it as grey without transparency")
    if grey:
        inside = None if transparent is None else array != transparent
        return XrayImage(array.astype(np.float32), inside=inside if inside is not None and inside.any() else None)
    if mode not in ("RGB", "P"):
        raise UserError(f"{path}: colour mode {mode}; export it as a grey PNG")
    return XrayImage(_grey(array.astype(np.float32), np.inf if colour else 255.0, path))


def _read_npy(path: Path, colour: bool) -> np.ndarray:
    """One grey array, or the mean of equal colour channels in the first or last axis."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: the header may claim more than the file has
    except (*IMAGE_ERRORS, EOFError, MemoryError, RecursionError, zipfile.BadZipFile, tokenize.TokenError) as error:
        raise UserError(f"{path}: not a NumPy array of numbers ({error}); save the X-ray with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uifb":
        kind = getattr(array, "dtype", type(array).__name__)
        raise UserError(f"{path}: holds {kind} where an X-ray is an array of numbers; save one with numpy.save")
    expect_pixels(array.shape, path)
    array = array.astype(np.float32)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        return _grey(array, np.inf if colour else float(np.ptp(array)), path)
    return array


def _grey(array: np.ndarray, span: float, path: Path) -> np.ndarray:
    """The mean of the channels `(h, w, c)`; UserError if they differ by more than `COLOUR_TOLERANCE` of `span`."""
    if float((array.max(axis=-1) - array.min(axis=-1)).max()) > COLOUR_TOLERANCE * span:
        raise UserError(f"{path}: a colour image where an X-ray is grey; export the X-ray itself, without overlays")
    return array.mean(axis=-1)


def _read_nifti(path: Path) -> np.ndarray:
    with open_nifti(path) as image:
        expect_pixels(image.shape, path)
        array, affine = image.get_fdata(dtype=np.float32), image.affine
    axes = [axis for axis, n in enumerate(array.shape) if n > 1]
    if len(axes) != 2 or max(axes) > 2:
        raise UserError(f"{path}: shape {list(array.shape)} where an X-ray is one slice; give a PNG, JPEG or DICOM")
    if not np.isfinite(affine).all():
        raise UserError(f"{path}: the affine in its header is not finite; give a PNG, JPEG or DICOM")
    codes = nib.aff2axcodes(affine)  # None for an axis of length 0
    array = np.squeeze(array)
    for axis, code in enumerate(codes[a] for a in axes):
        if code in ("R", "A", "S"):  # axes run to the left, posterior and inferior
            array = np.flip(array, axis)
    # columns are the left-right axis, of a lateral the anterior-posterior one
    first, second = ({"L": 0, "R": 0, "A": 1, "P": 1}.get(codes[a], 2) for a in axes)
    return array if second < first else array.T
