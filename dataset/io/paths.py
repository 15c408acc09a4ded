"""Names of CTs: a file, a folder of slices, or one series of such a folder as `folder#key`."""

import re
from pathlib import Path

X2CT_FILE = "ct_xray_data.h5"
ENDING = re.compile(r"\.(nii(\.gz)?|mha|mhd|nrrd|npz|h5)$", re.IGNORECASE)


def split_series(path: str | Path) -> tuple[Path, str]:
    """The file or folder, and the key of the series ("" for none). A `#` in an existing name is part of it."""
    text = str(path)
    marks = [] if Path(text).exists() else [i for i, letter in enumerate(text) if letter == "#"]
    at = next((i for i in reversed(marks) if Path(text[:i]).is_dir()), marks[0] if marks else len(text))
    return Path(text[:at]), text[at + 1 :]


def volume_name(path: str | Path) -> str:
    """The name of a volume file or folder without its suffix; of X2CT-GAN's files, which share one, their folder's."""
    path = Path(path)
    if path.name == X2CT_FILE and path.parent.name:
        return path.parent.name
    return ENDING.sub("", path.name)


def without_ending(path: str) -> str:
    """A path without the suffix of a volume file."""
    return ENDING.sub("", path)
