"""Loggers write curves and pictures; wandb gets pictures only if allowed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from train.run.callbacks import compare_slices
from train.run.loggers import PrivateWandbLogger, log_picture, make_loggers

PICTURE = np.arange(64, dtype=np.uint8).reshape(8, 8)
OPTIONS = {"offline": True, "images": True, "project": "test"}


def trainer(loggers):
    return SimpleNamespace(loggers=loggers)


def test_csv_runs_get_curves_and_png_files(tmp_path):
    (logger,) = make_loggers(tmp_path, "csv", **OPTIONS)
    assert isinstance(logger, CSVLogger)
    log_picture(trainer([logger]), "sample", PICTURE, 300)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / "sample_000300.png")), PICTURE)


def test_a_resumed_run_keeps_the_curves_it_had(tmp_path):
    for value in (1.0, 2.0):
        (logger,) = make_loggers(tmp_path, "csv", **OPTIONS)
        logger.log_metrics({"loss": value}, step=0)
        logger.save()
    assert sorted(p.parent.name for p in tmp_path.glob("*/metrics.csv")) == ["curves_1", "curves_2"]


def test_tensorboard_gets_files(tmp_path):
    loggers = make_loggers(tmp_path, "tensorboard", **OPTIONS)
    assert isinstance(loggers[1], TensorBoardLogger)
    log_picture(trainer(loggers), "sample", PICTURE, 1)
    loggers[1].finalize("success")
    assert list(tmp_path.glob("**/events.out.tfevents*"))


@pytest.mark.parametrize("images", [False, True])
def test_wandb_gets_pictures_only_if_allowed(tmp_path, images, monkeypatch):
    seen = []
    monkeypatch.setattr(PrivateWandbLogger, "log_image", lambda self, *a, **k: seen.append(a))
    loggers = make_loggers(tmp_path, "wandb", offline=True, images=images, project="test")
    log_picture(trainer(loggers), "sample", PICTURE, 1)
    assert bool(seen) is images


def test_wandb_online_without_a_key_does_not_wait(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(type(wandb.api), "api_key", property(lambda self: None))
    with pytest.raises(ValueError, match="wandb login"):
        make_loggers(tmp_path, "wandb", offline=False, images=False, project="test")


def test_unknown_logger(tmp_path):
    with pytest.raises(ValueError, match="logger.name=x"):
        make_loggers(tmp_path, "x", **OPTIONS)


def test_pictures_of_three_planes_side_by_side():
    volume = torch.linspace(-1, 1, 4 * 6 * 8).reshape(4, 6, 8)
    picture = compare_slices([volume, volume])
    assert picture.dtype == np.uint8 and picture.shape == (6 + 4 + 4, 16)
