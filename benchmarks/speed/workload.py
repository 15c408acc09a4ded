"""What a row measures: one side's prepared work, and the settings it is prepared from."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

SETTINGS = Path(__file__).with_name("settings.yaml")


@dataclass
class Work:
    """One side, ready to be timed.

    Args:
        step: does the work once.
        facts: plain JSON known before timing: parameters, precision, ….
        finish: after timing; plain JSON that only a run gives, such as a reconstruction error.
        floor: does the work once under the counters of `floor.py`; None where nothing can be counted.
    """

    step: Callable[[], object]
    facts: dict = field(default_factory=dict)
    finish: Callable[[], dict] = dict
    floor: Callable[[], object] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Args:
        name: of the row, as it stands in the table.
        what: the work in words.
        sides: name of a side to the function `(setting, device) -> Work`; the first is ours, the second the peer that
            the ratio is stated against, the others stand beside it.
        fastest: the ratio is against the fastest peer instead of the second side.
        sizes: `cpu`, `gpu`: where the row exists.
        times: seconds of the peer are multiplied by this: 1000 denoising steps are not run 5 times over.
    """

    name: str
    what: str
    sides: dict[str, Callable]
    fastest: bool = False
    sizes: tuple[str, ...] = ("cpu", "gpu")
    times: int = 1


def load_settings(size: str, file: Path = SETTINGS) -> dict:
    """`{"networks", "sizes", "tolerance"}` for `cpu`, `gpu` or `tiny`."""
    content = yaml.safe_load(file.read_text())
    networks = content["tiny_networks"] if size == "tiny" else content["networks"]
    tolerance = None if size == "tiny" else content["tolerance"]
    return {"networks": networks, "sizes": content["sizes"][size], "tolerance": tolerance}


def setting_of(row: str, settings: dict, **changes) -> dict:
    """What a side of a row is made from: its sizes, the networks, the tolerance; `changes` replace sizes."""
    return copy.deepcopy({**settings["sizes"][row], **changes, "networks": settings["networks"]})
