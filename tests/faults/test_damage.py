"""Missing and changed files are detected by length or checksum, then made again or replaced."""

import os

import pytest
import torch
from fault_runs import DATA, DDPM, Training, contents, differing, stages_and
from prepare_runs import HU, SPACING
from safetensors import safe_open

from train.run.checkpoint_io import PREVIOUS

FIRST, SECOND = pytest.mark.slow, pytest.mark.faults
WAYS = [pytest.param("changed", marks=FIRST), *(pytest.param(how, marks=SECOND) for how in ("cut", "gone"))]


def spoil(path, how: str, name: str = "ct") -> None:
    """A byte of one tensor is changed, the file is cut, or it is gone."""
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data, start = bytearray(path.read_bytes()), 0
        with safe_open(path, framework="pt") as file:
            wanted = file.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
        start = bytes(data).index(wanted)
        data[start + len(wanted) // 2] ^= 0x40
        path.write_bytes(bytes(data))


@pytest.fixture
def own_cache(server, tmp_path) -> Training:
    """A training with a cache of its own, prepared."""
    training = Training(server, "vqgan", tmp_path, 12)
    training.start().fine()
    return training


@pytest.mark.parametrize("how", WAYS)
def test_a_case_damaged_before_the_start(own_cache, how):
    before = own_cache.weights()
    cases = contents(own_cache.place / "cache")
    own_cache.forget()
    paths = sorted((own_cache.place / "cache").glob("*/cases/*.safetensors"))
    spoil(paths[1], how, "spacing" if how == "changed" else "ct")
    said = own_cache.start().fine()
    assert "building it again" in said or how == "gone"
    assert contents(own_cache.place / "cache") == cases
    assert differing(own_cache.weights(), before) == []


@pytest.mark.parametrize("workers", [pytest.param(0, marks=FIRST), pytest.param(1, marks=SECOND)])
@pytest.mark.parametrize("how", WAYS)
def test_a_case_damaged_while_training(own_cache, how, workers):
    """The volume itself, where it is read at every step: its checksum is compared each time."""
    before = own_cache.weights()
    cases = contents(own_cache.place / "cache")
    own_cache.forget()
    words = f"model.num_workers={workers}", "model.memory.cache_volumes_gb=0"
    command = own_cache.start(*words, spoil_at_step={"step": 3, "how": how})
    assert "building it again" in command.fine()
    assert contents(own_cache.place / "cache") == cases
    assert differing(own_cache.weights(), before) == []


@pytest.mark.faults
def test_volumes_in_memory_outlive_their_files(own_cache):
    before = own_cache.weights()
    own_cache.forget()
    own_cache.start(spoil_at_step={"step": 7, "how": "changed"}).fine()  # every case was read before
    assert differing(own_cache.weights(), before) == []


@pytest.mark.faults
def test_a_case_whose_source_is_missing_too(server, tmp_path):
    """Nothing can be made again: one line that names the file."""
    from chest_files import save_nifti

    for i in range(3):
        save_nifti(tmp_path / "data" / f"scan{i}.nii.gz", HU + i, SPACING, (0.0, 0.0, 0.0), "RAS")
    training = Training(server, "vqgan", tmp_path, 6)
    data = ["dataset=default", f"dataset.root_dir={tmp_path}/data", "dataset.val_share=0.34", "dataset.test_share=0"]
    training.words = [*data, *(w for w in training.words if w.partition("=")[0] not in
                               ("dataset.train", "dataset.val", "dataset.test"))]  # fmt: skip
    training.start().fine()
    training.forget()
    damaged = {"step": 3, "how": "gone", "also": str(tmp_path / "data")}
    line = training.start("model.memory.cache_volumes_gb=0", spoil_at_step=damaged).refusal()
    assert "scan" in line and "no such file" in line.lower()


@pytest.mark.parametrize("how", [pytest.param("changed", marks=FIRST), pytest.param("cut", marks=SECOND)])
def test_damaged_latents_are_encoded_again(server, whole_vqgan, tmp_path, how):
    words = [*DATA, *DDPM, f"dataset.cache_dir={tmp_path}/cache", f"model.vqgan_ckpt={whole_vqgan.last}"]
    server.start("train/encode_latents.py", *words, place=tmp_path).fine()
    (home,) = tmp_path.glob("cache/*/latents-*")
    expected = contents(home)
    spoil(sorted(home.glob("*.safetensors"))[2], how, "raw")
    said = server.start("train/encode_latents.py", *words, place=tmp_path).fine()
    assert "is encoded again" in said and "1 of them encoded now" in said
    assert contents(home) == expected


@stages_and("how", ["cut", "empty", "changed", "gone"], ("vqgan", "cut"))
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(training, how, request):
    command = training.start(kill_in_checkpoint={"moment": "after_rename", "count": 4})
    assert command.wait() == -9
    path = training.last
    if how == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    elif how == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if how == "empty" else path.stat().st_size * 2 // 3)
    said = training.resume().fine()
    assert PREVIOUS in said and ("continuing from the checkpoint before it" in said or "is gone" in said)
    assert differing(training.weights(), request.getfixturevalue(f"whole_{training.stage}").weights()) == []
