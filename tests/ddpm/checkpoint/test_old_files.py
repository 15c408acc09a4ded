"""Checkpoints and exported folders written before the modules moved load and generate the volumes they generated."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool3d, interpolate

from common.files import ROOT
from ddpm.checkpoint.load import load_pipeline

FILES = ROOT / "tests" / "ddpm" / "files"
EXPECTED = json.loads((FILES / "flat_layout.json").read_text())  # written by that code, one thread
PLACES = {
    "checkpoint": FILES / "flat_layout.ckpt",
    "folder": FILES / "flat_layout",
    "release_0.1.0": FILES / "release_0.1.0.ckpt",
    "phantom_128": ROOT / "assets" / "phantom_128.safetensors",
}


def generate(place: Path, size: int, sampler: str) -> torch.Tensor:
    ramp = torch.linspace(0, 1, 32 * 32).view(1, 1, 32, 32) ** 2
    xray = interpolate(ramp, size=(size, size), mode="bilinear")[None]
    return load_pipeline(place).set_sampler(sampler, 3)(xray, seed=0, ids=["old"]).volumes[0, 0]


@pytest.mark.parametrize("name", PLACES)
def test_old_files_generate_the_volumes_they_generated(name, record_property, monkeypatch):
    monkeypatch.setattr("common.autocast.bfloat16_supported", lambda device: False)  # expected values are of float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sampler = "DDIMScheduler" if name == "release_0.1.0" else "DPMSolverMultistepScheduler"
        volume = generate(PLACES[name], 128 if name == "phantom_128" else 32, sampler)
    finally:
        torch.set_num_threads(threads)
    equal = hashlib.sha256(volume.numpy().tobytes()).hexdigest() == EXPECTED[name]["sha256"]
    record_property("bit_equal", equal)
    print(f"{name}: bit-equal to the old volume: {equal}")
    expected = torch.tensor(EXPECTED[name]["hu"])  # means of blocks of 4³ or 16³ voxels
    block = round((volume.numel() / len(expected)) ** (1 / 3))
    assert expected.std() > 10.0
    torch.testing.assert_close(avg_pool3d(volume[None], block)[0].flatten(), expected, atol=0.5, rtol=0)  # HU
