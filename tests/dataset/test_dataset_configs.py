"""Every data set config composes, builds its source without touching the disk, and explains each of its keys."""

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dataset.intensity import Window

FOLDER = Path(__file__).resolve().parents[2] / "config" / "dataset"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CLINICAL = {"ctpa", "xrayctpa", "lidc", "xraylidc", "rspect"}


def load(name):
    return OmegaConf.create({"dataset": OmegaConf.load(FOLDER / f"{name}.yaml")})


def test_the_data_sets_of_the_readme_are_there():
    assert {"phantom", "default"} | CLINICAL <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_source_is_built_without_a_disk(name, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: pytest.fail("construction looked at the disk"))
    config = load(name)
    if "root_dir" in config.dataset:
        config.dataset.root_dir = "/nowhere"
    source = instantiate(config.dataset.source)
    assert source.name == name and len(source.volume_size) == 3
    Window.parse(config.dataset.window)


@pytest.mark.parametrize("name", NAMES)
def test_every_flat_key_reaches_the_source_or_the_data_module(name):
    config = load(name).dataset
    used = set(re.findall(r"\$\{dataset\.(\w+)\}", (FOLDER / f"{name}.yaml").read_text()))
    for_data_module = {"window", "cache_dir", "prepare_workers"}
    assert set(config) - {"source"} <= used | for_data_module
    assert used <= set(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_flat_key_has_a_line_of_meaning(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    for line in lines[1:]:
        if re.match(r"\w+:", line):
            assert re.search(r" # \w", line), line


@pytest.mark.parametrize("name", sorted(CLINICAL | {"default"}))
def test_missing_root_is_a_phrase(name):
    missing = instantiate(load(name).dataset.source).missing()
    assert len(missing) == 1 and missing[0].startswith("dataset.root_dir (")
    assert ("manifest.csv" in missing[0]) == (name in CLINICAL)


@pytest.mark.parametrize("name", sorted(CLINICAL))
def test_clinical_windows(name):
    window = Window.parse(load(name).dataset.window)
    assert (window.low, window.high) == ((-1200.0, 600.0) if "lidc" in name else (-200.0, 500.0))
