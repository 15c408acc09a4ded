"""Same seed, same machine, same result; and what a run folder holds is enough to make the run again."""

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fault_runs import ROOT, Training, differing, stages, weights
from PIL import Image

from dataset.cases.store import stored


@stages("ddpm")
def test_the_same_command_gives_the_same_weights_and_another_seed_others(training, request):
    whole = request.getfixturevalue(f"whole_{training.stage}").weights()
    training.start().fine()
    assert differing(training.weights(), whole) == []
    training.forget()
    training.start("model.seed=1").fine()
    assert differing(training.weights(), whole)


@stages("vqgan", "ddpm")
def test_the_run_folder_says_what_it_was_made_of(training, request):
    whole = request.getfixturevalue(f"whole_{training.stage}")
    folder = whole.last.parent.parent
    (start,) = json.loads((folder / "run.json").read_text())["starts"]
    assert start["seed"] == 0 and start["threads"] == 1 and start["resumed_from"] is None
    assert {"python", "torch", "pytorch-lightning", "numpy"} <= start["versions"].keys()
    assert len(start["data_sha256"]) == 64
    if (ROOT / ".git").exists():
        assert len(start["git"]["commit"]) == 40
        if start["git"]["changed"]:
            patch = (folder / "changes.patch").read_bytes()
            assert hashlib.sha256(patch).hexdigest() == start["git"]["changes_sha256"]
    if training.stage == "ddpm":
        used = request.getfixturevalue("whole_vqgan").last
        assert start["inputs_sha256"] == {"vqgan_ckpt": hashlib.sha256(used.read_bytes()).hexdigest()}


@stages("ddpm")
def test_the_documented_command_repeats_a_run(training, server, request, tmp_path):
    """Started anywhere, with nothing but the folder of the run."""
    whole = request.getfixturevalue(f"whole_{training.stage}")
    original = whole.last
    folder = original.parent.parent
    python, script, *words = shlex.split(json.loads((folder / "run.json").read_text())["repeat"])
    assert python == "python" and words == ["--config-path", str(folder / ".hydra"), "--config-name", "config"]
    said = server.start(script, *words, place=tmp_path).fine()
    again = Path(next(line for line in said.splitlines() if line.endswith("last.ckpt")))
    assert again != original
    try:
        assert differing(weights(again), weights(original)) == []
        assert not (tmp_path / "outputs").exists()  # Hydra writes nothing of its own
    finally:
        shutil.rmtree(again.parent.parent)  # the others look for the only run


@pytest.mark.slow
def test_generation_gives_the_same_volume(server, whole_vqgan, tmp_path):
    """By the shipped weights: those of a training as short as here give one volume for all noise."""
    case = sorted(whole_vqgan.place.glob("cache/*/cases/*.safetensors"))[0]
    picture = (stored(case, "xray")[0].float().numpy() * 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "xray.png")
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = [f"xray={tmp_path}/xray.png", f"output={tmp_path}/{name}",
                 f"seed={seed}", "sampler.steps=2", "device=cpu", "align=none", "allow_any_picture=true"]  # fmt: skip
        server.start("evaluation/generate.py", *words, place=tmp_path).fine()
        volumes = sorted((tmp_path / name).rglob("*.nii.gz"))
        assert volumes
        found.append([np.asarray(nib.load(path).dataobj) for path in volumes])
    assert all(np.array_equal(one, two) for one, two in zip(found[0], found[1], strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(found[0], found[2], strict=True))


@pytest.mark.faults
def test_what_the_data_hold_decides_the_hash_and_not_where_they_lie(server, whole_vqgan, tmp_path):
    folder = whole_vqgan.last.parent.parent
    here = json.loads((folder / "run.json").read_text())["starts"][0]["data_sha256"]
    for name, more, same in (("moved", (), True), ("other", ("dataset.seed=1",), False)):
        training = Training(server, "vqgan", tmp_path / name, 2, *more)
        training.start().fine()
        there = json.loads((training.last.parent.parent / "run.json").read_text())["starts"][0]["data_sha256"]
        assert (there == here) is same
