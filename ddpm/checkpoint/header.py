"""Checks a header before anything is built from it: types, sizes and protocol.

Each component is first built on torch's meta device, without memory, and its size is compared with the weights in the
file, so that a few bytes of JSON cannot fill the memory.
"""

import math
from pathlib import Path

import torch

from common.errors import UserError
from dataset.imaging.hu_window import Window

FORMAT = 1  # version of the header
MAX_NUMBER = 1 << 20  # in the constructor arguments of a component
MAX_LIST = 4096
MAX_DEPTH = 8
SPARE = 1 << 28  # bytes that a component may take beyond its weights, for buffers that are not stored
MAX_SIDE = 4096  # voxels or pixels
FORBIDDEN = ("hf-hub:", "local-dir:", "hf_hub:", "http://", "https://")  # prefixes of downloads by libraries


def check_header(path: str | Path, header: dict) -> None:
    """Checks format, types and protocol; raises a `UserError` for another format or a damaged header."""
    version = header.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        remedy = "update this project" if newer else "train it again, or use the version that wrote it"
        raise UserError(f"{path}: checkpoint format {version}, this version reads {FORMAT}; {remedy}")
    for key in ("components", "protocol"):
        if not isinstance(header.get(key, {}), dict):
            raise UserError(f"{path}: its header is damaged ({key} is not a table); copy it again")
    for name, entry in header["components"].items():
        typed = isinstance(entry, dict) and isinstance(entry.get("config"), dict)
        if not typed or not all(isinstance(entry.get(key, ""), str) for key in ("class", "prefix")):
            raise UserError(f"{path}: its header is damaged (component {name}); copy it again")
        _check_arguments(path, name, entry["config"])
    if header.get("stage") == "ddpm":
        _check_protocol(path, header.get("protocol", {}))


def check_size(path: str | Path, name: str, cls: type, config: dict, stored: int) -> None:
    """Raises a `UserError` for a component more than twice as large as the `stored` bytes of its weights."""
    try:
        with torch.device("meta"):
            module = cls(**config)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError, KeyError, ImportError):
        return  # building it raises the same error
    needed = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if needed > 2 * stored + SPARE:  # an exported model may store half the precision
        raise UserError(
            f"{path}: component {name} needs {needed / 1e9:.3g} GB, but its file holds {stored / 1e9:.3g} GB of "
            "weights; nothing was built, copy it again"
        )


def _check_arguments(path, name: str, value, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise UserError(f"{path}: component {name}: arguments nested too deeply; nothing was built")
    if isinstance(value, dict | list | tuple):
        if len(value) > MAX_LIST:
            raise UserError(f"{path}: component {name}: a list of {len(value)} arguments; nothing was built")
        for item in value.values() if isinstance(value, dict) else value:
            _check_arguments(path, name, item, depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise UserError(f"{path}: component {name}: {value} as an argument; nothing was built")
    elif isinstance(value, str) and value.startswith(FORBIDDEN):
        raise UserError(f"{path}: component {name}: {value[:80]!r} would be downloaded; nothing was built")


def _check_protocol(path, protocol: dict) -> None:
    try:
        Window.parse(protocol["window"])
        sizes = {"volume_size": 3} | ({"xray_size": 2} if "xray_size" in protocol else {})
        for key, count in sizes.items():
            values = protocol[key]
            if len(values) != count or not all(type(v) is int and 0 < v <= MAX_SIDE for v in values):
                raise ValueError(f"{key} {values}")
        extent = [float(v) for v in protocol["extent"]]
        if len(extent) != 3 or not all(math.isfinite(v) and v > 0 for v in extent):
            raise ValueError(f"extent {extent}")
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: its protocol is damaged ({str(error)[:120]}); copy it again") from error
