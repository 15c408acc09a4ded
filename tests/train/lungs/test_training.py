"""The lung network trains from the command, resumes to the same weights, and learns."""

import importlib
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from common.files import ROOT
from dataset.imaging.lung_network import LEVELS_MM, WITH_RECESS, load_network
from train.lungs.module import lung_loss, masks_of

TINY = ["dataset=phantom", "dataset.train=2", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[40,40,40]"]
TINY += ["dataset.prepare_workers=0", "model.drrs=4", "model.channels=[4,8,8]", "model.batch_size=2", "model.gpus=0"]
TINY += ["model.warmup_steps=1", "model.checkpoint_every=2", "model.num_workers=0", "model.phantoms=0"]


def train(folder, *overrides) -> dict[str, torch.Tensor]:
    path = list(sys.path)
    module = importlib.import_module("train.train_lung_network")
    sys.path[:] = path  # the script replaces the first entry
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        options = [f"model.results_folder={folder}", f"dataset.cache_dir={folder.parent}/cache", *overrides]
        module.main.__wrapped__(compose("train_lung_network", [*TINY, *options]))
    (written,) = folder.glob("*/lungs_xray.safetensors")
    load_network(written)
    return load_file(written)


@pytest.mark.nightly
def test_a_resumed_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.imaging.lung_network.SIZE", 64)
    monkeypatch.setattr("train.lungs.data.SIZE", 64)
    monkeypatch.setattr("train.lungs.data.VALIDATION", 2)
    whole = train(tmp_path / "whole", "model.train_num_steps=4")
    from train.lungs.module import LungModule

    step = LungModule.training_step

    def stop(self, batch, batch_idx):
        if batch_idx == 2:
            raise OSError("stopped")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Exception, match="stopped"):
        patch.setattr(LungModule, "training_step", stop)
        train(tmp_path / "parts", "model.train_num_steps=4")
    resumed = train(tmp_path / "parts", "model.train_num_steps=4", "model.resume=auto")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_masks_follow_the_depth_and_the_loss_prefers_the_truth():
    depth = torch.zeros(1, 4, 16, 16)
    depth[0, 0, 4:12, 2:7], depth[0, 1, 4:12, 9:14] = 100.0, 20.0
    depth[0, 2:, 12:14] = 80.0  # recess
    masks = masks_of(depth)
    areas = masks.sum(dim=(3, 4))[0]
    recess = 32.0 * torch.tensor(WITH_RECESS)
    assert areas[0].tolist() == (40.0 + recess).tolist()
    assert areas[1].tolist() == (40.0 * (torch.tensor(LEVELS_MM) <= 20.0) + recess).tolist()
    right, wrong = 20.0 * (masks - 0.5), torch.zeros_like(masks)
    assert lung_loss(right, masks) < 0.02 < lung_loss(wrong, masks) < lung_loss(-right, masks)
    empty = torch.zeros_like(masks)
    assert lung_loss(-20.0 + empty, empty) < 0.01
