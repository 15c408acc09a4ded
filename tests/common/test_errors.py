"""Messages name commands as the user runs them."""

import sys

import pytest

from common.errors import commands_as_installed
from xray2ct import console

TEXT = "train one with `python train/train_ddpm.py`, or train/train_vqgan.py, then python evaluation/calibrate.py x=1"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/env/bin/xray2ct-generate", "`xray2ct-train-ddpm`, or xray2ct-train-vqgan, then xray2ct-calibrate x=1"),
        ("evaluation/generate.py", TEXT.partition("with ")[2]),
    ],
)
def test_a_message_names_commands_as_they_are_installed(monkeypatch, program, expected):
    monkeypatch.setattr(sys, "argv", [program])
    assert commands_as_installed(TEXT).endswith(f"with {expected}")


def test_every_such_name_is_a_console_script(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["xray2ct-generate"])
    for script in ("train/train_ddpm.py", "train/fit_parts.py", "evaluation/reader_study.py", "dataset/prepare.py"):
        name = commands_as_installed(f"python {script}").removeprefix("xray2ct-")
        assert callable(getattr(console, name.replace("-", "_")))
