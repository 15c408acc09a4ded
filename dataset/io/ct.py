"""Reader of CT volumes: NIfTI, MetaImage, NRRD, arrays and DICOM to HU arrays `(D, H, W)` in one orientation.

`D` runs inferior to superior, `H` anterior to posterior, `W` patient right to left. The nearest axis-aligned rotation
or flip reorients an oblique volume without resampling; `Volume.direction` holds the remaining tilt.
"""

from pathlib import Path

from common.errors import UserError
from dataset.imaging.volume import Volume, check_air
from dataset.io.dicom_series import find_ct_series
from dataset.io.dicom_volume import read_series
from dataset.io.paths import split_series
from dataset.io.volume_files import VOLUME_ENDINGS, read_file

LONGEST_KEY, MOST_KEYS = 100, 8  # of a message: letters of the name of a series (a UID has 64), series


def read_volume(path: str | Path, clipped_at: float | None = None) -> Volume:
    """A CT volume from a file, a folder with a DICOM series, or one series of several, `folder#key`.

    Files are NIfTI, MetaImage, NRRD and the arrays of `dataset.io.volume_files`. A volume whose values below a window
    were clipped has no air; `clipped_at` is the HU at which that is expected.

    UserError for a file that is missing, damaged, not 3-dimensional, or has invalid HU or spacing.
    """
    volume = _read(path)
    if clipped_at is None or float(volume.hu.min()) > clipped_at:
        check_air(volume.hu, path)
    return volume


def _read(path: str | Path) -> Volume:
    folder, series = split_series(path)
    if folder.is_file() and not series:
        return read_file(folder)
    if not folder.is_dir():
        endings = ", ".join(VOLUME_ENDINGS)
        raise UserError(f"{path}: no such file or folder; a CT is a file ({endings}) or a folder with a DICOM series")
    found = find_ct_series(folder, recursive=False)
    if not found:
        raise UserError(f"{folder}: no DICOM series of a CT in this folder; give the folder that holds the slices")
    if not series:
        chosen = [one for one in found if not one.dropped] or found  # localisers
    elif not (chosen := [one for one in found if one.key == series]):
        keys = ", ".join(one.key[:LONGEST_KEY] for one in found[:MOST_KEYS])
        raise UserError(f"{folder}: no series {series}; found {keys}")
    if len(chosen) > 1:
        raise UserError(f"{folder}: {len(chosen)} DICOM series; name one as {folder}#{chosen[0].key[:LONGEST_KEY]}")
    if chosen[0].dropped:
        raise UserError(f"{folder}: no DICOM series of a CT volume ({chosen[0].dropped}); give the folder of the CT")
    return read_series(chosen[0], folder)
