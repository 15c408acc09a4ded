"""Reader of CT volumes: NIfTI and DICOM to HU arrays `(D, H, W)` in one orientation.

`D` runs inferior to superior, `H` anterior to posterior, `W` patient right to left. An oblique volume is reoriented by
the nearest axis-aligned rotation or flip without resampling; the remaining tilt is in `Volume.direction`.
"""

from pathlib import Path

from common.errors import UserError
from dataset.imaging.volume import Volume, check_geometry, check_hu
from dataset.io.dicom_series import find_ct_series
from dataset.io.dicom_volume import read_series
from dataset.io.nifti import read_nifti


def read_volume(path: str | Path) -> Volume:
    """A CT volume from a NIfTI file, a folder with a DICOM series, or one of several series as `folder#SeriesUID`.

    Raises:
        UserError: the file is missing, damaged, not 3-dimensional, or has invalid HU or spacing.
    """
    text = str(path)
    folder, _, series = text.partition("#")
    if Path(text).is_file():
        volume = read_nifti(Path(text))
    elif Path(folder).is_dir():
        volume = _read_dicom(Path(folder), series)
    else:
        raise UserError(f"{path}: no such file or folder; a CT is a .nii, a .nii.gz or a folder with a DICOM series")
    check_geometry(volume, path)
    check_hu(volume.hu, path)
    return volume


def _read_dicom(folder: Path, series: str) -> Volume:
    found = find_ct_series(folder, recursive=False)
    if not found:
        raise UserError(f"{folder}: no DICOM series of a CT in this folder; give the folder that holds the slices")
    found = [one for one in found if not one.dropped or one.identity.series_uid == series] or found  # localisers
    names = list(dict.fromkeys(one.identity.series_uid for one in found))
    if series and series not in names:
        raise UserError(f"{folder}: no series {series}; found {', '.join(names)}")
    if not series and len(names) > 1:
        raise UserError(f"{folder}: {len(names)} DICOM series; name one as {folder}#{names[0]}")
    same = [one for one in found if one.identity.series_uid == (series or names[0])]
    if len(same) > 1:
        raise UserError(f"{folder}: {len(same)} acquisitions in one DICOM series; dataset/prepare.py separates them")
    if same[0].dropped:
        raise UserError(f"{folder}: no DICOM series of a CT volume ({same[0].dropped}); give the folder of the CT")
    return read_series(same[0], folder)
