"""The checkpoint, device, sampler and data of a generator are checked; the batch size does not change its volumes."""

import pytest
import torch
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from folder_sources import source
from phantom_sources import phantom_source

from common.errors import UserError
from ddpm.checkpoint.read import read
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.open_pipeline import PHANTOM_WEIGHTS, SHIPPED, find_checkpoint, resolve_device, set_sampler
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.protocol.data_checks import check_protocol
from evaluation.protocol.leakage import check_patient_leakage


def test_data_of_another_protocol_are_refused(caplog):
    with pytest.raises(UserError, match=r"dataset.window.*-200.*-1000"):
        check_protocol(protocol(window=(-200, 500)), protocol())
    with pytest.raises(UserError, match=r"dataset.volume_size.*24.*32"):
        check_protocol(protocol(), protocol(size=(24, 24, 32)))
    check_protocol(protocol() | {"version": 2}, protocol())
    assert "version 1" in caplog.text


def test_the_phantom_weights_are_evaluated_on_phantoms_with_a_warning(caplog):
    trained = read(PHANTOM_WEIGHTS).protocol
    phantoms = phantom_source(train=2, val=1, test=3, seed=trained["seed"])
    test = phantoms.rows[phantoms.rows["split"] == "test"]
    assert check_patient_leakage(test, trained, phantoms.describe(), str(PHANTOM_WEIGHTS), "")["train"] == 0
    assert "has no patients of the training" in caplog.text


def test_the_shipped_weights_have_seen_all_chests_but_the_one_of_their_model_card():
    rows = source(None, root_dir="repository:/assets/chests", require_manifest=True).rows
    held_out, trained = rows["patient"] == "lidc-idri-0001", read(SHIPPED).protocol
    assert check_patient_leakage(rows[held_out], trained, {}, "", "")["train"] == 0
    with pytest.raises(UserError, match="trained on 6 of the 6 patients"):
        check_patient_leakage(rows[~held_out], trained, {}, "weights", "")


def test_the_shipped_checkpoint_is_used_if_none_is_trained_or_named(tmp_path):
    with pytest.raises(UserError, match="train_ddpm.py"):
        find_checkpoint(None, tmp_path)
    with pytest.raises(UserError, match="none.ckpt: no such file.*train_ddpm.py"):
        find_checkpoint(str(tmp_path / "none.ckpt"), shipped=SHIPPED)
    assert SHIPPED.stat().st_size < 15e6
    assert find_checkpoint(None, tmp_path, shipped=SHIPPED) == SHIPPED
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    assert find_checkpoint(None, tmp_path, shipped=SHIPPED) == tmp_path / "run" / "last.ckpt"


def test_device_and_sampler_are_checked():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="device=quantum"):
        resolve_device("quantum")
    pipeline = FakePipeline(None, protocol())
    with pytest.raises(UserError, match="sampler.steps=0"):
        set_sampler(pipeline, {"scheduler": "Fake", "steps": 0})
    with pytest.raises(UserError, match="choose one of Fake"):
        set_sampler(pipeline, {"scheduler": "Other", "steps": 3})
    set_sampler(pipeline, {"scheduler": "Fake", "steps": 3, "guidance_scale": 2.0})
    assert pipeline.sampler == ("Fake", 3, 2.0)


def test_the_batch_size_does_not_change_volumes():
    cases = chest_world(5, 3)
    drawn = {}
    for batch_size in (1, 4, 100):
        pipeline = FakePipeline(oracle(cases), protocol())
        inputs = ModelInputs.of_cases((cases.case(i) for i in range(5)), pipeline)
        parts = list(sample_volumes(pipeline, inputs, list("abcde"), Sampling(2, 7, batch_size)))
        assert pipeline.calls == {1: 5, 4: 3, 100: 1}[batch_size]
        assert [i for part, _ in parts for i in part] == list(range(5))
        drawn[batch_size] = torch.cat([volumes for _, volumes in parts])
    assert torch.equal(drawn[1], drawn[4]) and torch.equal(drawn[1], drawn[100])
