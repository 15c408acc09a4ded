"""Small CT files for the tests: an asymmetric thorax as NIfTI in any orientation, and as X2CT-GAN stores it."""

import h5py
import nibabel as nib
import numpy as np

from dataset.imaging.geometry import nifti_affine

SIZE, SPACING, CENTRE = (20, 24, 28), (6.0, 5.0, 4.5), (11.0, -7.0, 130.0)


def thorax(size=SIZE, seed=0):
    """HU (D, H, W): body, two unequal lungs, a heart on the left, a liver below right; no axis is symmetric."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in size], indexing="ij")
    hu = np.full(size, -1000.0)
    hu[(y / 0.9) ** 2 + (x / 0.95) ** 2 < 1] = 40
    right = ((x + 0.45) / 0.35) ** 2 + (y / 0.6) ** 2 + ((z - 0.15) / 0.75) ** 2 < 1
    left = ((x - 0.5) / 0.28) ** 2 + (y / 0.55) ** 2 + ((z - 0.05) / 0.85) ** 2 < 1
    hu[right | left] = -820
    hu[((x - 0.2) / 0.3) ** 2 + ((y + 0.3) / 0.3) ** 2 + ((z + 0.25) / 0.35) ** 2 < 1] = 150  # heart: front, left
    hu[(x**2 + ((y - 0.65) / 0.8) ** 2) < 0.015] = 700  # spine: back
    return np.rint(np.maximum(hu + rng.normal(0, 8, size), -1024)).astype(np.int16)


def save_nifti(path, hu, spacing=SPACING, centre=CENTRE, axcodes="LPS", affine=None, dtype=np.int16):
    """Written by nibabel alone, with array axes toward `axcodes`."""
    image = nib.Nifti1Image(
        np.ascontiguousarray(np.transpose(hu, (2, 1, 0))).astype(dtype),
        nifti_affine(spacing, centre, hu.shape) if affine is None else affine,
    )
    expected = nib.orientations.axcodes2ornt(tuple(axcodes))
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), expected))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def save_x2ct(path, hu, **changes):
    """A file of X2CT-GAN: HU + 1024 from superior to inferior."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    content = {
        "ct": np.maximum(hu, -1024)[::-1] + 1024,
        "xray1": ramp,
        "xray2": ramp[:, ::-1],
        "ori_size": np.int64(320),
    }
    with h5py.File(path, "w") as file:
        for name, value in {**content, "spacing": [1.0, 1.0, 1.0], **changes}.items():
            if value is not None:
                file[name] = value
    return path
