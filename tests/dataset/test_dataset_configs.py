"""Every data set config composes, builds its source without the disk, and explains each of its keys."""

import copy
import functools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.command_help import CONFIG, help_text
from common.value_ranges import leaves
from dataset.imaging.hu_window import Window
from dataset.sources.morphs import MorphSource  # noqa: F401 (its import reads files, its construction must not)

FOLDER = Path(__file__).resolve().parents[2] / "config" / "dataset"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CLINICAL = {"ctpa", "xrayctpa", "lidc", "xraylidc", "rspect"}
MANIFEST = CLINICAL | {"ct_to_ct", "nlst", "covid_19_ny_sbu", "covid_19_ar"}


def load(name, *overrides):
    """The composed data set; a test may change it."""
    return copy.deepcopy(_composed(name, *overrides))


@functools.cache
def _composed(name, *overrides):
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        composed = compose("train_vqgan", [f"dataset={name}", *overrides])
    return OmegaConf.create({"dataset": OmegaConf.to_container(composed.dataset)})


def sources(name):
    """The text of the yaml files that make a data set."""
    base = "film" if name == "phantom" else "folder"
    return [(FOLDER / f"{part}.yaml").read_text() for part in (name, f"base/{base}", "base/film")]


def test_the_data_sets_of_the_readme_are_there():
    assert {"phantom", "default"} | CLINICAL <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_source_is_built_without_a_disk(name, monkeypatch):
    config = load(name)
    monkeypatch.setattr(Path, "exists", lambda self: pytest.fail("construction looked at the disk"))
    if "root_dir" in config.dataset:
        config.dataset.root_dir = "/nowhere"
    source = instantiate(config.dataset.source)
    assert source.name == name and len(source.describe()["volume_size"]) == 3
    Window.parse(config.dataset.window)


@pytest.mark.parametrize("name", NAMES)
def test_every_flat_key_reaches_the_source_or_the_data_module(name):
    config = load(name).dataset
    used = set(re.findall(r"\$\{dataset\.(\w+)[.}]", "".join(sources(name))))
    for_data_module = {"window", "cache_dir", "prepare_workers"}
    used |= {"morph"} & set(config)
    assert set(config) - {"source"} <= used | for_data_module
    assert used <= set(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_flat_key_has_a_line_of_meaning(name):
    for text in sources(name):
        for line in text.splitlines():
            if re.match(r"\w+: \S", line):
                assert re.search(r" # \w", line), line


@pytest.mark.parametrize("name", sorted(MANIFEST | {"default"}))
def test_missing_root_is_a_phrase(name):
    missing = instantiate(load(name).dataset.source).missing()
    assert len(missing) == 1 and missing[0].startswith("dataset.root_dir (")
    assert ("manifest.csv" in missing[0]) == (name in MANIFEST)


@pytest.mark.parametrize("name", sorted(CLINICAL))
def test_clinical_windows(name):
    window = Window.parse(load(name).dataset.window)
    assert (window.low, window.high) == ((-1200.0, 600.0) if "lidc" in name else (-200.0, 500.0))


def test_options_of_drrs_and_augmentation_reach_the_source():
    config = load("ctpa", "dataset.drr_view=AP", "dataset.drr_remove_iodine=true", "dataset.film.blur=2.5")
    source = instantiate(config.dataset.source)
    assert source.source.drr.view == "AP" and source.source.drr.remove_iodine and source.xray_options.align == "lungs"
    assert source.xray_options.augmentation.appearance.blur == 2.5
    assert instantiate(load("ctpa", "dataset.film_augment=false").dataset.source).xray_options.augmentation is None
    assert instantiate(load("phantom").dataset.source).xray_options.augmentation is None


def test_input_volumes_have_no_xray_options():
    source = instantiate(load("ct_to_ct", "dataset.film_augment=true", "dataset.align=lungs").dataset.source)
    assert source.xray_options.augmentation is None and source.xray_options.align == "none"
    assert (
        source.describe()["input"] == "volume" and source.describe()["views"] == source.source.geometry.volume_size[0]
    )


def test_help_explains_the_keys_that_data_sets_share():
    text = help_text("train_vqgan", ["dataset=lidc"])
    for key in ("dataset.root_dir", "dataset.n_folds", "dataset.film.gamma", "dataset.window=lidc"):
        assert key in text


@pytest.mark.parametrize("command", ["train_vqgan", "train_ddpm", "encode_latents", "train_lung_network", "generate"])
def test_help_shows_every_value(command):
    """Also those of the groups within the data set."""
    words = ["dataset=default"] if command.startswith("train") else []
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose(command, words)
    text = help_text(command, words)
    for key, value in leaves(cfg):
        if ".source." not in key and key not in ("dataset.augmentation",):
            assert f"  {key}={'null' if value is None else value}" in text, key
