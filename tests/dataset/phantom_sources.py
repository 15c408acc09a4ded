"""A phantom source from flat keys, as tests write them."""

from dataclasses import fields

from dataset.sources.phantom import PhantomSource, Population
from dataset.sources.settings import Geometry, Xrays


def grouped(kind, flat):
    """The settings dataclass `kind` with its fields taken out of `flat`."""
    return kind(**{field.name: flat.pop(field.name) for field in fields(kind) if field.name in flat})


def xrays(flat):
    """X-ray settings taken out of `flat`, where their size is called `xray_size`."""
    if "xray_size" in flat:
        flat["size"] = flat.pop("xray_size")
    return grouped(Xrays, flat)


def phantom_source(**flat) -> PhantomSource:
    geometry = grouped(
        Geometry, {"volume_size": (64, 64, 64), **{k: flat.pop(k) for k in ("volume_size",) if k in flat}}
    )
    return PhantomSource(grouped(Population, flat), geometry, xrays(flat), **flat)
