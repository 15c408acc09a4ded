"""A run that stops and resumes has the samples and the weights of an uninterrupted one."""

import contextlib
import errno
import json
import logging

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from folder_sources import data_module
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from common.errors import UserError
from dataset.cases.case import case_key, pack_case
from dataset.datamodule import CTDataModule, prepared_data, split_cases
from dataset.imaging.geometry import make_pose
from dataset.manifest import table
from dataset.manifest.table import COLUMNS, make_rows
from dataset.xray.options import XrayOptions

TOTAL = 11  # batches of 2 out of 5 cases: batches cross the borders of epochs


class NoiseSource:
    """Five cases of noise: enough for order and counters, and quick."""

    name = "noise"
    xray_options = XrayOptions()

    def __init__(self, splits=("train",) * 5 + ("val", "test")):
        self.rows = make_rows(
            {"id": f"case_{i}", "patient": f"p{i}", "xray_source": "drr", "label": i % 2, "split": split}
            for i, split in enumerate(splits)
        )

    def missing(self):
        return []

    def home(self):
        return {}

    def key(self, row):
        return case_key({"id": row["id"]})

    def build(self, row):
        generator = torch.Generator().manual_seed(int(row["id"][-1]))
        hu = torch.rand(6, 5, 4, generator=generator) * 1000 - 900
        xray = torch.rand(1, 8, 8, generator=generator)
        return pack_case(hu, xray, make_pose((6.0, 5.0, 4.0))[None], (1.0, 1.0, 1.0))

    def describe(self):
        return {"dataset": self.name, "volume_size": [6, 5, 4], "xray_size": [8, 8], "views": 1}


class Recorder(pl.LightningModule):
    """One weight that depends on every sample it saw and on their order."""

    def __init__(self, manual: bool):
        super().__init__()
        self.automatic_optimization = not manual
        self.weight = torch.nn.Parameter(torch.zeros(6 * 5 * 4))
        self.seen: list[tuple[int, int]] = []
        self.validated = 0

    def training_step(self, batch, batch_idx):
        self.seen += list(zip(batch["index"].tolist(), batch["step"].tolist(), strict=True))
        assert batch["step"].tolist() == [batch_idx] * len(batch["step"])
        loss = (self.weight - batch["ct"].flatten(1)).square().mean()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated += 1

    def configure_optimizers(self):
        return torch.optim.Adam([self.weight], lr=0.1)


class StopAt(Callback):
    def __init__(self, batches: int, inside: bool = False):
        self.batches, self.inside = batches, inside

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.inside and batch_idx == self.batches:
            raise InterruptedError

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not self.inside and batch_idx + 1 == self.batches:
            raise InterruptedError


def fit(cache, total=TOTAL, workers=0, manual=True, callbacks=(), checkpoint=None, validate=None, source=None):
    module = Recorder(manual)
    data = CTDataModule(
        source or NoiseSource(),
        batch_size=2,
        num_batches=total,
        num_workers=workers,
        seed=3,
        cache_dir=cache,
        prepare_workers=0,
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        val_check_interval=validate or total,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    with contextlib.suppress(InterruptedError):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    return module, trainer


def every_batch(folder):
    return ModelCheckpoint(folder, filename="at_{step}", every_n_train_steps=1, save_top_k=-1, save_last=False)


@pytest.fixture
def without_lightning_output():
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.mark.parametrize(("workers", "manual"), [(0, True), (0, False), (2, True)])
def test_resuming_in_the_middle_equals_not_stopping(tmp_path, workers, manual, without_lightning_output, recwarn):
    whole, _ = fit(tmp_path, workers=workers, manual=manual)
    saver = ModelCheckpoint(tmp_path / "ckpt", filename="stop", every_n_train_steps=4)
    first, stopped = fit(tmp_path, workers=workers, manual=manual, callbacks=[saver, StopAt(6)])
    assert stopped.state.status == "interrupted" and len(first.seen) == 12  # two batches further than the checkpoint
    second, _ = fit(tmp_path, workers=workers, manual=manual, checkpoint=tmp_path / "ckpt" / "stop.ckpt")
    assert first.seen[:8] + second.seen == whole.seen
    assert len(whole.seen) == 2 * TOTAL
    torch.testing.assert_close(second.weight, whole.weight, rtol=0, atol=0)
    assert not [w for w in recwarn if "not resumable" in str(w.message)]


@pytest.mark.parametrize("stop", range(1, TOTAL + 1))
@pytest.mark.parametrize("validate", [None, 3])
def test_a_run_resumes_at_any_batch(tmp_path, stop, validate, without_lightning_output):
    whole, _ = fit(tmp_path, validate=validate)
    fit(tmp_path, validate=validate, callbacks=[every_batch(tmp_path / "ckpt")])
    checkpoint = next((tmp_path / "ckpt").glob(f"at_step={stop}.ckpt"))
    rest, _ = fit(tmp_path, validate=validate, checkpoint=checkpoint)
    assert rest.seen == whole.seen[2 * stop :]
    torch.testing.assert_close(rest.weight, whole.weight, rtol=0, atol=0)


@pytest.mark.parametrize("saved", ["last_batch", "validation_end", "epoch_end", "after_fit"])
@pytest.mark.parametrize("validate", [None, 3])
def test_a_finished_run_continues_with_more_batches(tmp_path, saved, validate, without_lightning_output):
    class SaveThen(Callback):
        def on_validation_end(self, trainer, module):
            if saved == "validation_end":
                trainer.save_checkpoint(tmp_path / "end.ckpt")

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if saved == "last_batch" and batch_idx + 1 == 6:
                trainer.save_checkpoint(tmp_path / "end.ckpt")

        def on_train_epoch_end(self, trainer, module):
            if saved == "epoch_end":
                trainer.save_checkpoint(tmp_path / "end.ckpt")

    whole, _ = fit(tmp_path, validate=validate)
    short, trainer = fit(tmp_path, total=6, validate=validate, callbacks=[SaveThen()])
    if saved == "after_fit":
        trainer.save_checkpoint(tmp_path / "end.ckpt")
    rest, longer = fit(tmp_path, validate=validate, checkpoint=tmp_path / "end.ckpt")
    assert short.seen + rest.seen == whole.seen
    torch.testing.assert_close(rest.weight, whole.weight, rtol=0, atol=0)
    assert longer.global_step == TOTAL
    if validate:
        assert short.validated + rest.validated == whole.validated
    again, _ = fit(tmp_path, total=6, validate=validate, checkpoint=tmp_path / "end.ckpt")
    assert again.seen == []  # the same length once more: nothing left to do


def test_an_exception_inside_a_batch_loses_only_that_batch(tmp_path, without_lightning_output):
    whole, _ = fit(tmp_path)
    first, trainer = fit(tmp_path, callbacks=[StopAt(5, inside=True)])
    trainer.state.fn = "fit"  # as an exception hook finds it
    trainer.save_checkpoint(tmp_path / "crash.ckpt")
    rest, _ = fit(tmp_path, checkpoint=tmp_path / "crash.ckpt")
    assert first.seen + rest.seen == whole.seen
    torch.testing.assert_close(rest.weight, whole.weight, rtol=0, atol=0)


def test_workers_and_the_global_random_state_have_no_effect(tmp_path, without_lightning_output):
    def drawn(workers):
        pl.seed_everything(0, verbose=False)
        module, _ = fit(tmp_path, workers=workers)
        return module.seen, torch.rand(3)

    (seen, state), (seen_too, state_too) = drawn(0), drawn(2)
    assert seen == seen_too
    torch.testing.assert_close(state, state_too, rtol=0, atol=0)


def test_splits_are_apart_and_written_down(tmp_path):
    data = data_module(NoiseSource(), tmp_path)
    ids = [set(split.rows["id"]) for split in (data.train, data.val, data.test)]
    assert [len(i) for i in ids] == [5, 1, 1] and not ids[0] & ids[1] and not ids[1] & ids[2]
    written = pd.read_csv(data.manifest_path)
    assert set(written.columns) == set(COLUMNS)
    assert written.loc[written["split"] == "train", "id"].tolist() == data.train.rows["id"].tolist()


def test_validation_has_neither_crop_nor_step(tmp_path):
    data = data_module(NoiseSource(), tmp_path, crop=[3, 3, 3], num_batches=2, batch_size=2)
    assert next(iter(data.train_dataloader()))["ct"].shape == (2, 1, 3, 3, 3)
    assert data.val_dataloader().batch_size == 1  # the memory of a batch is that of crops
    batch = next(iter(data.val_dataloader()))
    assert batch["ct"].shape == (1, 1, 6, 5, 4) and batch["step"].tolist() == [-1]


def test_one_case_for_all_splits_with_a_warning(tmp_path, caplog):
    data = CTDataModule(NoiseSource(("train",)), cache_dir=tmp_path, prepare_workers=0)
    with caplog.at_level(logging.WARNING):
        data.prepare_data()
        data.setup()
    assert "validation repeats" in caplog.text
    assert data.val.rows["id"].tolist() == data.test.rows["id"].tolist() == data.train.rows["id"].tolist()


def test_protocol_is_plain_json_and_complete(tmp_path):
    data = data_module(NoiseSource(), tmp_path, window="ctpa")
    protocol = json.loads(json.dumps(data.protocol()))
    assert protocol["window"] == [-200.0, 500.0] and protocol["extent"] == [6.0, 5.0, 4.0]
    assert data.cache_bytes() == sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
    assert protocol["split"] == {"train": 5, "val": 1, "test": 1} and protocol["version"]


class GrowingSource(NoiseSource):
    """The first case is smaller than all others."""

    name = "growing"

    def build(self, row):
        mm = 1.0 if row["id"] == "case_0" else 2.0
        return pack_case(torch.rand(6, 5, 4), torch.rand(1, 8, 8), make_pose((6.0, 5.0, 4.0))[None], (mm, mm, mm))


def test_a_typical_patient_is_one_of_the_training_cases(tmp_path):
    data = data_module(GrowingSource(("train", "val", "val", "test", "test")), tmp_path)
    assert data.protocol()["extent"] == [6.0, 5.0, 4.0]


def test_one_split_is_prepared_alone_and_gives_the_same_samples(tmp_path):
    node = OmegaConf.create({"window": "wide", "cache_dir": str(tmp_path / "whole"), "prepare_workers": 0})
    data = prepared_data(NoiseSource(), node)
    node.cache_dir = str(tmp_path / "alone")
    cases, protocol = split_cases(NoiseSource(), node, "test", data.protocol())
    assert len(list((tmp_path / "alone").glob("*/cases/*.safetensors"))) == len(data.test) == len(cases) == 1
    one, other = cases[0], data.test[0]
    assert all(torch.equal(one[key], other[key]) for key in ("ct", "xray", "pose", "spacing"))
    assert one["id"] == other["id"] and one["label"] == other["label"]
    assert all(protocol[key] == data.protocol()[key] for key in ("window", "volume_size", "extent", "views"))
    with pytest.raises(UserError, match="no val case of its own"):
        split_cases(NoiseSource(("train", "test")), node, "val", data.protocol())


def test_a_complete_cache_is_read_from_a_disk_for_reading(tmp_path, monkeypatch):
    data_module(NoiseSource(), tmp_path)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(table, "atomic_path", read_only)
    data = data_module(NoiseSource(), tmp_path)
    data.manifest_path.write_text("of another run")
    with pytest.raises(UserError, match=rf"^dataset.cache_dir={tmp_path}: cannot be written .*Read-only file system"):
        data_module(NoiseSource(), tmp_path)
