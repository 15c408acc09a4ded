"""Which device trains, and that nobody trains on a CPU unnoticed."""

import pytest
import torch

from dataset.errors import UserError
from train.devices import choose_devices


def test_zero_is_the_cpu(capsys):
    assert choose_devices(0) == {"accelerator": "cpu", "devices": 1}
    assert capsys.readouterr().out.startswith("device: CPU")


def test_more_than_there_are_warns_and_uses_what_is_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Test GPU")
    assert choose_devices(5) == {"accelerator": "gpu", "devices": 2}
    assert "5 asked for, 2 there" in capsys.readouterr().out
    assert choose_devices(1) == {"accelerator": "gpu", "devices": 1}
    assert choose_devices(None) == {"accelerator": "gpu", "devices": 2}


def test_a_driver_that_torch_cannot_use_stops_the_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("train.devices._driver_present", lambda: True)
    with pytest.raises(UserError, match="model.gpus=0"):
        choose_devices(None)
    assert choose_devices(0)["accelerator"] == "cpu"


@pytest.mark.parametrize("value", [-1, 1.5])
def test_nonsense_is_refused(value):
    with pytest.raises(UserError, match="model.gpus"):
        choose_devices(value)
