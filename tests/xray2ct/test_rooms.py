"""Libraries that do not fit each other end in one line, in Python and in console scripts."""

import pytest

import xray2ct
from xray2ct import console


def unfit(*_, **__):
    """The chain of errors of torch's CPU build beside torchvision's CUDA build, as diffusers raises it."""
    try:
        raise RuntimeError("operator torchvision::nms does not exist")
    except RuntimeError as first:
        raise RuntimeError("Failed to import diffusers.loaders.peft") from first


def other(*_, **__):
    raise RuntimeError("another")


def test_python_says_what_to_install(monkeypatch):
    monkeypatch.setattr(xray2ct, "load", unfit)
    with pytest.raises(ImportError, match="^torchvision is not of the same build as torch; .*index-url") as raised:
        _ = xray2ct.XrayToCTPipeline
    assert raised.value.__cause__ is None and raised.value.__context__ is None  # no traceback of the libraries
    monkeypatch.setattr(xray2ct, "load", other)
    with pytest.raises(RuntimeError, match="another"):
        _ = xray2ct.XrayToCTPipeline


def test_a_console_script_says_what_to_install(monkeypatch):
    monkeypatch.setattr(console, "foreign", lambda room: None)
    monkeypatch.setattr(console.runpy, "run_path", unfit)
    with pytest.raises(SystemExit, match="^error: torchvision is not of the same build as torch"):
        console.generate()
    monkeypatch.setattr(console.runpy, "run_path", other)
    with pytest.raises(RuntimeError, match="another"):
        console.generate()
