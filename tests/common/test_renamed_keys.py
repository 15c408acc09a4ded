"""Keys of earlier versions work or end in a line that names the new key, which exists."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common import cli
from common.files import ROOT
from common.renamed_keys import KEPT, MOVED

GROUPS = ("dataset=phantom", "dataset=default", "dataset=ct_to_ct")


def test_a_kept_key_is_renamed_with_a_line(monkeypatch, capsys):
    monkeypatch.setitem(cli.KEPT, "model.old", "model.new.name")
    assert cli.with_new_key("model.old=[1,2]") == "model.new.name=[1,2]"
    assert "model.old: renamed to model.new.name" in capsys.readouterr().err
    assert cli.with_new_key("+model.old=a=b") == "+model.new.name=a=b"
    assert cli.with_new_key("model.other=1") == "model.other=1" and cli.with_new_key("--help") == "--help"


def test_a_moved_key_ends_the_command_with_the_new_name(monkeypatch, capsys):
    monkeypatch.setitem(cli.MOVED, "model.gone", "model.there")
    with pytest.raises(SystemExit):
        cli.with_new_key("model.gone=1")
    assert capsys.readouterr().err == "error: model.gone: renamed to model.there\n"


def test_new_names_exist_and_old_ones_do_not():
    trees = []
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        for root in ("train_ddpm", "train_vqgan", "train_classifier", "evaluate", "generate", "prepare"):
            for choice in GROUPS if root.startswith("train") else ("dataset=phantom",) * (root == "evaluate") or ("",):
                trees.append(compose(root, [choice] if choice else []))
    missing = object()
    for old, new in {**KEPT, **MOVED}.items():
        found = [OmegaConf.select(tree, new, default=missing, throw_on_missing=False) for tree in trees]
        assert any(value is not missing for value in found), f"{new} is no key"
        assert all(OmegaConf.select(tree, old, default=missing) is missing for tree in trees), f"{old} still exists"
