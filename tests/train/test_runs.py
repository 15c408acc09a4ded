"""Run folders, and which checkpoint a run goes on from."""

import os

import pytest
import torch
from omegaconf import OmegaConf

from dataset.errors import UserError
from train.runs import RUN_FOLDER, run_folder, save_config


@pytest.fixture(autouse=True)
def fresh_environment(monkeypatch):
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    yield
    os.environ.pop(RUN_FOLDER, None)


def checkpoint(path, stage="ddpm"):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"header": {"format": 1, "stage": stage, "components": {}}, "state_dict": {}}, path)
    return path


def test_a_new_run_has_the_postfix_and_no_odd_characters(tmp_path):
    folder, resumed = run_folder("ddpm", str(tmp_path), "lora_finetune")
    assert folder.parent == tmp_path and folder.name.endswith("_lora_finetune") and resumed is None
    assert not set(folder.name) & set("=,()[]")


def test_auto_takes_the_newest_and_goes_on_in_its_folder(tmp_path):
    old = checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")
    new = checkpoint(tmp_path / "b" / "checkpoints" / "last.ckpt")
    os.utime(old, (1, 1))
    assert run_folder("ddpm", str(tmp_path), resume="auto") == (tmp_path / "b", new)


def test_auto_without_a_run_starts_one(tmp_path):
    folder, resumed = run_folder("ddpm", str(tmp_path), resume="auto")
    assert resumed is None and folder.parent == tmp_path


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


def test_a_resumed_run_keeps_its_first_config(tmp_path):
    save_config(OmegaConf.create({"a": 1}), tmp_path)
    save_config(OmegaConf.create({"a": 2}), tmp_path)
    assert OmegaConf.load(tmp_path / ".hydra" / "config.yaml").a == 1
