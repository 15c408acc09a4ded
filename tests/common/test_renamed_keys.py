"""Keys of earlier versions work or end in a line that names the new key, which exists."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.errors import UserError
from common.files import ROOT
from common.renamed_keys import ALIASES, KEPT, MOVED, rename_keys, rename_override

GROUPS = ("dataset=phantom", "dataset=default", "dataset=ct_to_ct")


def test_a_kept_key_is_renamed_with_a_line(capsys):
    assert rename_override("model.prior_rank=4") == "model.prior.rank=4"
    assert (
        capsys.readouterr().err
        == "model.prior_rank: renamed to model.prior.rank; the old name will end in the next version\n"
    )
    assert rename_override("+model.lora_target_modules=[a=b]") == "+model.lora.target_modules=[a=b]"
    assert rename_override("model.lora=true") == "model.lora.enabled=true"
    assert rename_override("model.lora.enabled=true") == "model.lora.enabled=true"
    moved = "model.losses.adversarial.discriminator.kernel_size=2"
    assert rename_override("model.discriminator.kernel_size=2") == moved == rename_override(moved)
    assert rename_override("model.other=1") == "model.other=1" and rename_override("--help") == "--help"


def test_keys_of_stages_that_mean_the_same_have_one_name_and_the_former_ones_stay(capsys):
    for name in ("model.max_steps", "model.lr", "model.default_root_dir"):
        assert rename_override(f"{name}=1") == f"{ALIASES[name]}=1" == rename_override(f"{ALIASES[name]}=1")
    assert capsys.readouterr().err == ""
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        for stage in ("train_vqgan", "train_ddpm", "train_classifier", "train_lung_network"):
            model = compose(stage).model
            assert all(key.rpartition(".")[2] in model for key in ALIASES.values()), stage


def test_a_moved_key_ends_the_command_with_the_new_name():
    with pytest.raises(UserError, match="^voi: renamed to crop_box$"):
        rename_override("voi=1")


def test_former_keys_of_an_experiment_file_are_moved(capsys):
    cfg = OmegaConf.create({"model": {"prior_rank": 4, "prior": {"rank": 64, "pixels": 32}, "dim": 8}})
    OmegaConf.set_struct(cfg, True)
    rename_keys(cfg)
    assert cfg == {"model": {"prior": {"rank": 4, "pixels": 32}, "dim": 8}}
    assert "model.prior_rank: renamed to model.prior.rank" in capsys.readouterr().err
    rename_keys(cfg)
    assert capsys.readouterr().err == ""
    rename_keys(OmegaConf.create({"model": "folder"}))  # commands whose `model` is no group


def test_a_former_key_that_is_now_a_group_ends_with_a_line():
    with pytest.raises(UserError, match="^model.lora=True: renamed to model.lora.enabled$"):
        rename_keys(OmegaConf.create({"model": {"lora": True}}))
    rename_keys(OmegaConf.create({"model": {"lora": {"enabled": True}}}))


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
        values = [OmegaConf.select(tree, old, default=missing) for tree in trees]
        assert all(value is missing or OmegaConf.is_config(value) for value in values), f"{old} still exists"


@pytest.mark.parametrize("file", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda file: file.stem)
def test_own_configs_use_present_names(file, capsys):
    cfg = OmegaConf.load(file)
    rename_keys(OmegaConf.create({"model": cfg}) if file.parent.name == "model" else cfg)
    assert capsys.readouterr().err == ""
