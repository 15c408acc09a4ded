"""Chosen devices: printed first, and never a CPU unnoticed."""

import logging

import pytest
import torch

from common.errors import UserError
from train.distributed.devices import choose_devices, many, own_device
from train.distributed.processes import first_process


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Test GPU")


def test_zero_is_the_cpu(capsys):
    assert choose_devices(0) == {"accelerator": "cpu", "devices": 1}
    assert capsys.readouterr().out.startswith("device: CPU")


def test_too_many_devices_give_a_note(four_gpus, capsys):
    assert choose_devices(5) == {"accelerator": "gpu", "devices": 4}
    assert "model.gpus=5, 4 found" in capsys.readouterr().out
    assert choose_devices(1) == {"accelerator": "gpu", "devices": 1}
    assert choose_devices(None) == {"accelerator": "gpu", "devices": 4}


def test_a_driver_that_torch_cannot_use_stops_the_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("train.distributed.devices._driver_present", lambda: True)
    with pytest.raises(UserError, match="model.gpus=0"):
        choose_devices(None)
    assert choose_devices(0)["accelerator"] == "cpu"


@pytest.mark.parametrize("value", [-1, 1.5])
def test_an_invalid_number_is_rejected(value):
    with pytest.raises(UserError, match="model.gpus"):
        choose_devices(value)


def test_trainer_keys_give_processes_on_the_cpu(capsys):
    assert choose_devices(None, "cpu", 2) == {"accelerator": "cpu", "devices": 2}
    assert "2 processes" in capsys.readouterr().out
    assert choose_devices(None, "cpu") == {"accelerator": "cpu", "devices": 1}
    assert many({"devices": 2}) and many({"devices": 1}, num_nodes=2) and not many({"devices": 1})


def test_trainer_keys_give_gpus(four_gpus):
    assert choose_devices(None, "auto", 2) == {"accelerator": "gpu", "devices": 2}
    assert choose_devices(None, "gpu", [1, 3]) == {"accelerator": "gpu", "devices": [1, 3]}
    assert choose_devices(None, "gpu") == {"accelerator": "gpu", "devices": 4}
    assert choose_devices(None, "gpu", "2") == {"accelerator": "gpu", "devices": 2}
    with pytest.raises(UserError, match="trainer.devices=none"):
        choose_devices(None, "gpu", "none")
    with pytest.raises(UserError, match=r"trainer.devices=\[1, 4\]: 4 GPUs found; give indices from 0 to 3"):
        choose_devices(None, "gpu", [1, 4])


@pytest.mark.parametrize(
    ("variables", "devices", "index"),
    [
        ({}, 2, 0),
        ({}, [1, 3], 1),
        ({"LOCAL_RANK": "1"}, 2, 1),
        ({"LOCAL_RANK": "1"}, [1, 3], 3),
        ({"SLURM_LOCALID": "1"}, [1, 3], 3),
        ({"SLURM_LOCALID": "0", "LOCAL_RANK": "1"}, 2, 1),  # Lightning started this process, Slurm its parent
        ({"SLURM_LOCALID": "2"}, 1, 0),  # Slurm shows every process a GPU of its own
    ],
)
def test_every_process_has_the_device_that_lightning_gives_it(monkeypatch, variables, devices, index):
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    device = torch.device("cuda", index)
    assert own_device({"accelerator": "gpu", "devices": devices}) == device and current == [device]
    assert own_device({"accelerator": "cpu", "devices": 2}) == torch.device("cpu") and len(current) == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="this is process 3 of this machine"):
        own_device({"accelerator": "gpu", "devices": 2})


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    for name in ("RANK", "SLURM_PROCID", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for rank, prints in (("0", True), ("1", False)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        choose_devices(0)
        assert bool(capsys.readouterr().out) is prints
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    assert not first_process()
