"""Small folders of CTs for the tests, with radiographs of a plain gradient."""

import numpy as np
from phantom_sources import grouped, xrays
from PIL import Image

from dataset.datamodule import CTDataModule
from dataset.sources.folder import FolderSource
from dataset.sources.settings import Files, Geometry, Splits


def source(root=None, **changes) -> FolderSource:
    """A folder source from flat keys; the cache is beside the folder."""
    flat = {"volume_size": (12, 12, 12), "xray_size": (24, 24), "root_dir": root, "remove_table": False, **changes}
    if root is not None:
        flat = {"cache_dir": root.parent / "cache", **flat}
    return FolderSource(grouped(Files, flat), grouped(Geometry, flat), xrays(flat), grouped(Splits, flat), **flat)


def data_module(source, cache, **options) -> CTDataModule:
    """A data module with prepared cases and open splits."""
    data = CTDataModule(source, cache_dir=cache, prepare_workers=0, **options)
    data.prepare_data()
    data.setup()
    return data


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))).save(path)
