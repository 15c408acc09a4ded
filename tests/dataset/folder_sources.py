"""A folder of CTs as its tests make it: small, with films of a plain gradient."""

import numpy as np
from PIL import Image

from dataset.sources.folder import FolderSource


def source(root, **changes):
    options = {"volume_size": (12, 12, 12), "xray_size": (24, 24), "cache_dir": root.parent / "cache"}
    return FolderSource(root_dir=root, **{**options, **changes})


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))).save(path)
