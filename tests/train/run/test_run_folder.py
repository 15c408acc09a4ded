"""Run folders, and the checkpoint that a run resumes from."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import UserError
from train.run.run_folder import RUN_FOLDER, refuse_changes, run_folder, save_config


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch):
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    yield
    os.environ.pop(RUN_FOLDER, None)


def checkpoint(path, stage="ddpm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    protocol = {"window": [-1000, 1000], "volume_size": [8, 8, 8], "extent": [1.0, 1.0, 1.0]}
    header = {"format": 1, "stage": stage, "components": {}, "protocol": protocol}
    torch.save({"header": header, "state_dict": {}}, path)
    return path


def test_a_new_run_has_the_postfix_and_no_odd_characters(tmp_path):
    folder, resumed = run_folder("ddpm", str(tmp_path), "lora_finetune")
    assert folder.parent == tmp_path and folder.name.endswith("_lora_finetune") and resumed is None
    assert not set(folder.name) & set("=,()[]")


def test_auto_resumes_the_newest_run_in_its_folder_or_starts_one(tmp_path):
    folder, resumed = run_folder("ddpm", str(tmp_path), resume="auto")
    assert resumed is None and folder.parent == tmp_path
    old = checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")
    new = checkpoint(tmp_path / "b" / "checkpoints" / "last.ckpt")
    os.utime(old, (1, 1))
    assert run_folder("ddpm", str(tmp_path), resume="auto") == (tmp_path / "b", new)


def test_a_copied_checkpoint_starts_a_folder_of_its_own(tmp_path):
    path = checkpoint(tmp_path / "copied.ckpt")
    folder, resumed = run_folder("ddpm", str(tmp_path / "runs"), resume=str(path))
    assert resumed == path and folder.parent == tmp_path / "runs"


def test_checkpoints_that_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint.*resume=auto"):
        run_folder("ddpm", str(tmp_path), resume=str(tmp_path / "none.ckpt"))
    with pytest.raises(UserError, match="of the stage vqgan, this command trains ddpm"):
        run_folder("ddpm", str(tmp_path), resume=str(checkpoint(tmp_path / "x.ckpt", "vqgan")))
    (tmp_path / "cut.ckpt").write_bytes(b"PK")
    with pytest.raises(UserError, match="cut.ckpt"):
        run_folder("ddpm", str(tmp_path), resume=str(tmp_path / "cut.ckpt"))


def test_the_previous_checkpoint_replaces_a_truncated_last_one(tmp_path, caplog):
    before = checkpoint(tmp_path / "a" / "checkpoints" / "previous.ckpt")
    (tmp_path / "a" / "checkpoints" / "last.ckpt").write_bytes(before.read_bytes()[:-100])
    assert run_folder("ddpm", str(tmp_path), resume="auto") == (tmp_path / "a", before)
    assert "continuing from the checkpoint before it" in caplog.text
    before.unlink()
    with pytest.raises(UserError, match="last.ckpt.*truncated"):
        run_folder("ddpm", str(tmp_path), resume="auto")


def test_the_config_and_former_ones_are_kept(tmp_path):
    save_config(OmegaConf.create({"a": 1, "model": {"resume": "auto", "seed": 3}}), tmp_path)
    save_config(OmegaConf.create({"a": 1, "model": {"resume": None, "seed": 3}}), tmp_path)
    home = tmp_path / ".hydra"
    assert [path.name for path in home.iterdir()] == ["config.yaml"]
    assert OmegaConf.load(home / "config.yaml").model.resume is None
    save_config(OmegaConf.create({"a": 2, "model": {"resume": None, "seed": 3}}), tmp_path)
    assert OmegaConf.load(home / "config.yaml").a == 2 and OmegaConf.load(home / "config_1.yaml").a == 1


def test_differences_are_listed_and_refused_unless_allowed(tmp_path, caplog):
    save_config(OmegaConf.create({"model": {"lr": 1, "num_workers": 0, "width": 8}}), tmp_path)
    same = OmegaConf.create({"model": {"lr": 1, "num_workers": 4, "width": 8}, "logger": {"name": "wandb"}})
    refuse_changes(same, tmp_path, allow=False)
    other = OmegaConf.create({"model": {"lr": 2, "num_workers": 0, "depth": 3}})
    with pytest.raises(UserError) as refused:
        refuse_changes(other, tmp_path, allow=False)
    for change in ("model.train_lr was 1, is 2", "model.width was 8, is not there", "model.depth was not there, is 3"):
        assert change in str(refused.value)
    refuse_changes(other, tmp_path, allow=True)
    assert "continuing although model.depth" in caplog.text
    refuse_changes(other, tmp_path / "elsewhere", allow=False)  # a new run


def test_a_longer_training_needs_no_permission(tmp_path, capsys):
    save_config(OmegaConf.create({"model": {"max_steps": 10}}), tmp_path)  # the former name
    refuse_changes(OmegaConf.create({"model": {"train_num_steps": 20}}), tmp_path, allow=False)
    assert "was 10, is 20: the run goes on" in capsys.readouterr().out
    with pytest.raises(UserError, match="model.train_num_steps was 10, is 5"):
        refuse_changes(OmegaConf.create({"model": {"train_num_steps": 5}}), tmp_path, allow=False)


def test_a_key_that_is_newer_than_a_run_has_the_value_by_which_the_run_was_made(tmp_path):
    save_config(OmegaConf.create({"model": {"lr": 1}}), tmp_path)
    now = OmegaConf.create({"model": {"lr": 1, "quantise": True, "block_pca": False}})
    refuse_changes(now, tmp_path, allow=False)
    now.model.quantise = False
    with pytest.raises(UserError, match="model.quantise was True, is False"):
        refuse_changes(now, tmp_path, allow=False)
