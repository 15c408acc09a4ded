"""The record of a run, and a resumed run whose data have changed."""

import pytest

from common.errors import UserError
from train.run.run_record import refuse_other_data, write_record


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    refuse_other_data(tmp_path, "a")  # a folder without a record, of an earlier version
    write_record(tmp_path, 0, "a", {}, None)
    refuse_other_data(tmp_path, "a")
    with pytest.raises(UserError, match="model.resume: the cases or splits of .* have changed, .*model.init_from="):
        refuse_other_data(tmp_path, "b")


def test_the_training_command_refuses_it_and_a_fine_tuned_run_goes_on(train, vae, tmp_path):
    words = ["dataset=phantom", "dataset.val=1", "dataset.test=1", f"model.vae_ckpt={vae}", "model.train_num_steps=2"]
    words += ["model.objective.prediction=sample", "model.save_and_sample_every=2"]
    folder = train(tmp_path, *words, "dataset.train=4")
    more = [
        "dataset.train=5",
        "model.train_num_steps=3",
        "model.resume_changed=true",
        f"model.resume={folder}/last.ckpt",
    ]
    with pytest.raises(UserError, match="model.resume: the cases or splits of"):
        train(tmp_path, *words, *more)
    origin = f"model.init_from={folder}/last.ckpt"
    tuned = train(tmp_path / "tuned", *words, "dataset.train=4", origin)
    train(tmp_path / "tuned", *words, origin, *more[:3], f"model.resume={tuned}/last.ckpt")
