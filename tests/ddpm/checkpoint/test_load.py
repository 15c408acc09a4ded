"""Damaged and foreign files: one line of error, and no code of them is run."""

import json
import pickle

import pytest
import torch
from ddpm_parts import module, vqgan_file
from safetensors.torch import save_file

from common.errors import UserError
from common.files import sha256
from ddpm.checkpoint.load import load_pipeline
from ddpm.checkpoint.read import read
from ddpm.checkpoint.write import export_pipeline


def test_vqgan_is_rebuilt(tmp_path):
    model, path = vqgan_file(tmp_path / "last.ckpt")
    found = read(path).vqgan()
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in found.state_dict().items())
    assert len(sha256(path)) == 64


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no.ckpt: no such checkpoint"):
        load_pipeline(tmp_path / "no.ckpt")


def test_wrong_stage_names_both(tmp_path):
    _, path = vqgan_file(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="stage 'vqgan' where one of 'ddpm'.*train_ddpm.py"):
        load_pipeline(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_checkpoint(tmp_path, share):
    _, path = vqgan_file(tmp_path / "last.ckpt")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match="last.ckpt"):
        read(path).vqgan()


def test_truncated_export(tmp_path):
    path = export_pipeline(module().pipeline(), tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="truncated"):
        load_pipeline(path)


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_malicious_pickle_is_not_run(tmp_path):
    target = tmp_path / "owned"
    for name, write in (("torch.ckpt", torch.save), ("plain.ckpt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        write({"header": {}, "state_dict": Bomb(target)}, tmp_path / name)
        with pytest.raises(UserError, match=name):
            load_pipeline(tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("name", ["torch.hub.load", "pathlib.Path", "Path"])
def test_component_outside_of_the_registry_is_refused(tmp_path, name):
    evil = {"class": name, "config": {"repo_or_dir": "x"}, "prefix": "model."}
    _, path = vqgan_file(tmp_path / "last.ckpt", components={"vqgan": evil})
    with pytest.raises(UserError, match=f"'{name}', not one of.*nothing was run"):
        read(path).vqgan()


def test_weights_that_do_not_fit_are_named(tmp_path):
    _, path = vqgan_file(tmp_path / "last.ckpt")
    content = torch.load(path, weights_only=True)
    content["state_dict"].pop("model.codebook.codes")
    torch.save(content, path)
    with pytest.raises(UserError, match="vqgan does not fit.*codebook.codes"):
        read(path).vqgan()


def test_foreign_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    old = json.dumps({"components": {}, "format": 0})
    save_file({"a": torch.zeros(1)}, tmp_path / "old.safetensors", {"header": old})
    texts = {"other.ckpt": "no header", "other.safetensors": "no header", "old.safetensors": "format 0"}
    for name, text in texts.items():
        with pytest.raises(UserError, match=text):
            load_pipeline(tmp_path / name)
