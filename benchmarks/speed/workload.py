"""Workload of a row: the prepared work of one implementation, and its settings."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

SETTINGS = Path(__file__).with_name("settings.yaml")


@dataclass
class Work:
    """One implementation, ready to be timed.

    Args:
        step: does the work once.
        facts: plain JSON known before timing: parameters, precision, ….
        finish: returns plain JSON after timing, such as a reconstruction error.
        roofline: does the work once under the counters of `roofline.py`; None if it cannot be counted.
        keeps: lives as long as the work, such as a temporary folder.
    """

    step: Callable[[], object]
    facts: dict = field(default_factory=dict)
    finish: Callable[[], dict] = dict
    roofline: Callable[[], object] | None = None
    keeps: object = None


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Args:
        name: of the row, as in the table.
        what: description of the work.
        sides: implementations, name to `(setting, device) -> Work`; the first is ours, the second the peer of the
            ratio.
        fastest: the ratio is against the fastest peer instead of the second implementation.
        sizes: `cpu`, `gpu`: sizes at which the row is measured.
        times: factor on the seconds of the peers, such as 1000 denoising steps of which one is measured.
    """

    name: str
    what: str
    sides: dict[str, Callable]
    fastest: bool = False
    sizes: tuple[str, ...] = ("cpu", "gpu")
    times: int = 1


def load_settings(size: str) -> dict:
    """`{"networks", "sizes", "tolerance"}` for `cpu`, `gpu` or `tiny`."""
    content = yaml.safe_load(SETTINGS.read_text())
    tiny = size == "tiny"
    networks, tolerance = content["tiny_networks" if tiny else "networks"], None if tiny else content["tolerance"]
    return {"networks": networks, "sizes": content["sizes"][size], "tolerance": tolerance}


def setting_of(row: str, settings: dict, **changes) -> dict:
    """Settings of a row: its sizes and the networks; `changes` replace sizes."""
    return copy.deepcopy({**settings["sizes"][row], **changes, "networks": settings["networks"]})
