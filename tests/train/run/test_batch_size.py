"""`model.batch_size=auto`: a number that fits, kept by a resumed run, rejected on several devices."""

import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from train.run.memory import GB, restore_batch_size


@pytest.fixture
def free(monkeypatch):
    """Sets how much memory the estimate believes to be free beyond this process."""

    def gigabytes(count: float) -> None:
        monkeypatch.setattr("train.run.memory._resident", lambda: 0)
        monkeypatch.setattr("train.run.memory.free_memory", lambda: int(count * GB))

    return gigabytes


def saved(checkpoints) -> int:
    return OmegaConf.load(checkpoints.parent / ".hydra" / "config.yaml").model.batch_size


@pytest.mark.slow
def test_a_run_keeps_the_number_that_it_found(train, save_vae, free, tmp_path, capsys):
    vae = f"model.vae_ckpt={save_vae(0)}"
    free(100)
    first = train(tmp_path / "runs", vae, "model.batch_size=auto")
    assert saved(first) == 3  # no more than there are cases
    assert "model.batch_size=auto: 3 samples a batch" in capsys.readouterr().out
    free(0.001)
    again = train(tmp_path / "runs", vae, "model.batch_size=auto", "model.resume=auto")
    assert again == first and saved(again) == 3
    little = train(tmp_path / "other", vae, "model.batch_size=auto")
    assert saved(little) == 1


def test_several_devices_could_find_different_numbers(tmp_path):
    model = OmegaConf.create({"batch_size": "auto"})
    with pytest.raises(UserError, match="model.batch_size=auto: for one device; give a number"):
        restore_batch_size(model, tmp_path, several=True)
    model.batch_size = 4
    restore_batch_size(model, tmp_path, several=True)  # a number suits several devices
