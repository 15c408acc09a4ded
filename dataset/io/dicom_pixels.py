"""DICOM pixel data in syntaxes that pydicom cannot decode."""

from pathlib import Path

import numpy as np
import pydicom


def decode_with_simpleitk(path: str | Path, header: pydicom.Dataset) -> np.ndarray:
    """Stored values of a single-frame file `(rows, columns)`, float64: SimpleITK's values with the rescale undone."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze().astype(np.float64)
    slope, intercept = float(header.get("RescaleSlope") or 1.0), float(header.get("RescaleIntercept") or 0.0)
    return np.rint((image - intercept) / slope)
