"""A run resumed with another config lists the differences and stops unless an option continues it."""

import pytest
from fault_runs import stages
from omegaconf import OmegaConf


@stages("vqgan")
def test_differences_are_listed_and_stop_the_run(training):
    first = training.start(kill_in_checkpoint={"moment": "after_rename", "count": 2})
    assert first.wait() == -9
    changes = ("model.train_lr=0.002", "model.batch_size=3", "model.num_workers=0")
    line = training.resume(*changes).refusal()
    assert "model.batch_size was 2, is 3" in line and "model.train_lr was 0.0003, is 0.002" in line
    assert "model.resume_changed=true" in line and "num_workers" not in line
    assert "continuing although" in training.resume(*changes, "model.resume_changed=true").fine()
    home = training.last.parent.parent / ".hydra"
    assert OmegaConf.load(home / "config.yaml").model.batch_size == 3
    assert OmegaConf.load(home / "config_1.yaml").model.batch_size == 2


@pytest.mark.faults
@pytest.mark.parametrize("training", ["vqgan"], indirect=True)
def test_what_does_not_touch_the_weights_may_differ(training):
    first = training.start(kill_in_checkpoint={"moment": "after_rename", "count": 2})
    assert first.wait() == -9
    training.resume("model.checkpoint_every=5", "model.num_workers=1", "logger=tensorboard").fine()


@pytest.mark.faults
@pytest.mark.parametrize("training", ["ddpm"], indirect=True)
def test_another_data_set_is_a_difference(training):
    first = training.start(kill_in_checkpoint={"moment": "after_rename", "count": 2})
    assert first.wait() == -9
    assert "dataset.train was 5, is 4" in training.resume("dataset.train=4").refusal()
