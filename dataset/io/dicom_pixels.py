"""Stored values of DICOM images: decoded by pydicom or SimpleITK, with the bits that hold the image."""

import contextlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import UID, ImplicitVRLittleEndian, RLELossless

from common.errors import UserError, quiet

DECODER_ERRORS = (RuntimeError, NotImplementedError, AttributeError, ValueError, ImportError)
OVERLAID = 0.25  # largest share of the pixels that an overlay covers


def stored_values(ds: pydicom.Dataset, path: str | Path, name: str | Path) -> np.ndarray:
    """The integers of the image, `(rows, columns)` or with the frames first.

    UserError, under `name`, if neither pydicom nor SimpleITK (single frames only) can decode them.
    """
    ds.BitsStored = min(int(ds.get("BitsStored") or ds.BitsAllocated), int(ds.BitsAllocated))
    meta = ds.file_meta
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = ImplicitVRLittleEndian  # as DICOM has it without a meta header
    syntax = UID(str(meta.TransferSyntaxUID))
    native = not syntax.is_encapsulated or syntax == RLELossless  # others have their own number of bits
    try:
        with quiet("pydicom"):
            return _image_bits(pixel_array(ds, correct_unused_bits=False), ds) if native else pixel_array(ds)
    except DECODER_ERRORS as error:
        if native:
            raise
        if int(ds.get("NumberOfFrames") or 1) == 1:
            with contextlib.suppress(*DECODER_ERRORS):
                return decode_with_simpleitk(path, ds)
        raise UserError(f"{name}: damaged, or no decoder for {syntax.name}; export it uncompressed") from error


def padding_range(ds: pydicom.Dataset) -> tuple[int, int] | None:
    """The lowest and the highest stored value of padding; None without Pixel Padding Value."""
    padding = ds.get("PixelPaddingValue")
    if padding is None:
        return None
    wrap = 65536 if ds.get("PixelRepresentation") == 1 else 0  # an unsigned padding value beside signed pixels
    limit = ds.get("PixelPaddingRangeLimit", padding)
    low, high = sorted(int(v) - wrap * (int(v) > 32767) for v in (padding, limit))
    return low, high


def decode_with_simpleitk(path: str | Path, header: pydicom.Dataset) -> np.ndarray:
    """Stored values of a single-frame file `(rows, columns)`: SimpleITK's values with the rescale undone."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    # GDCM alone: by its first bytes the file could also be a MetaImage, with voxels anywhere
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO")).squeeze().astype(np.float64)
    slope, intercept = float(header.get("RescaleSlope") or 1.0), float(header.get("RescaleIntercept") or 0.0)
    return np.rint((image - intercept) / slope).astype(np.int64)


def _image_bits(stored: np.ndarray, ds: pydicom.Dataset) -> np.ndarray:
    """The values without the bits outside Bits Stored, up to High Bit: overlays of old scanners.

    Headers may be wrong. Bits below the image have to be empty. Those above it have to be few, except where they are
    the missing signs of signed values, and the image smoother without them: values that are cut off jump.
    """
    allocated, bits = 8 * stored.dtype.itemsize, int(ds.BitsStored)
    high = int(bits - 1 if ds.get("HighBit") is None else ds.HighBit)
    low = high - bits + 1
    if low < 0 or high >= allocated or (stored & ((1 << low) - 1)).any():
        high, low = bits - 1, 0
    image = (stored << (allocated - 1 - high)) >> (allocated - bits)
    if not low and np.array_equal(image, stored):
        return stored
    unsigned = stored.dtype.kind == "i" and stored.min() >= 0 and stored.max() < 1 << bits
    needed = (not unsigned and (image != stored).mean() > OVERLAID) or _variation(image) > _variation(stored)
    return stored if needed and not low else image


def _variation(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image.astype(np.int64), axis=-1)).sum())
