"""The evidence map of a generation with the spread of the model itself, and what the settings say of it."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluation_fakes import FakePipeline, chest_world, oracle, protocol
from PIL import Image

from ddpm.diffusion.training_spread import TrainingSpread
from evaluation.generation.sample import Sampling
from evaluation.generation.write_volumes import generate
from evaluation.intervals.evidence import EvidenceMaps, describe_evidence

KINDS = {"morphs": 54, "patients": 6}


@pytest.fixture(scope="module")
def world():
    cases = chest_world(24, seed=1)
    pipeline = FakePipeline(oracle(cases), protocol(), noise=3.0)
    volumes = ((cases.case(i)["ct"].float(), None) for i in range(24))
    pipeline.training_spread = TrainingSpread.fit(volumes, pipeline.window, KINDS)
    return cases, pipeline


def test_four_samples_give_a_map_without_calibration(world, tmp_path):
    cases, pipeline = world
    array = (cases.case(0)["xray"][0].float().numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "chest.png")
    for samples in (4, 3):
        generate(pipeline, [tmp_path / "chest.png"], tmp_path / str(samples), Sampling(samples))
    path = tmp_path / "4" / "chest_synthetic_evidence.nii.gz"
    image, volume = nib.load(path), nib.load(tmp_path / "4" / "chest_synthetic_ct.nii.gz")
    assert image.shape == volume.shape and np.allclose(image.affine, volume.affine)
    percent = image.get_fdata()
    assert percent[percent >= 0].min() > 75 and np.median(percent[percent >= 0]) > 90  # 3 HU; patients have 10 or more
    assert (percent[:2, :2] == -1).all() and percent.max() <= 100  # air beside the body
    found = json.loads((tmp_path / "4" / "chest_settings.json").read_text())["evidence"]
    assert found["name"] == "map" and found["training_cases"] == 60 and found["kinds"] == KINDS
    assert found["like_calibration"] is None and "54 morphs, 6 patients" in found["words"]
    assert "was not checked: no calibration" in found["words"]
    assert not (tmp_path / "3" / "chest_synthetic_evidence.nii.gz").exists()
    found = json.loads((tmp_path / "3" / "chest_settings.json").read_text())["evidence"]
    assert found == {"name": "none", "reason": "3 of the 4 samples that a map needs"}


def test_the_settings_say_whether_the_xray_is_like_the_calibration(world):
    _, pipeline = world

    def described(p, digest="0"):
        unlike = "unlike" if p is not None and p < 0.05 else None
        intervals = SimpleNamespace(checkpoint={"sha256": "0"}, unlike_calibration=lambda xray, chi2: (p, unlike))
        return describe_evidence(
            EvidenceMaps(pipeline.training_spread), 4, "a.ckpt", digest, intervals, torch.zeros(1, 8, 8)
        )

    like, unlike, untested, other = described(0.4), described(0.01), described(None), described(0.4, "1")
    assert like["like_calibration"] is True and "is like the calibration's (p 0.4)" in like["words"]
    assert unlike["like_calibration"] is False and "the map may be too high" in unlike["words"]
    assert untested["like_calibration"] is None and "has no test of X-rays" in untested["words"]
    assert other["like_calibration"] is None and "of another checkpoint" in other["words"]
    missing = describe_evidence(None, 4, "a.ckpt")
    assert missing["name"] == "none" and "train/fit_parts.py checkpoint=a.ckpt adds it" in missing["reason"]


def test_a_constant_xray_determines_nothing():
    """Samples that ignore the X-ray, from the population itself: 0 within the noise of 8 samples over a cell."""
    rng = torch.Generator().manual_seed(0)
    volumes = 100.0 * torch.randn(60 + 8, 32, 32, 32, generator=rng)
    spread = TrainingSpread.fit(((v, None) for v in volumes[:60]), FakePipeline(None, protocol()).window, {})
    found = spread.evidence(volumes[60:], False)
    assert found.mean() < 0.1 and found.max() < 0.75  # cells of 2×2×2 voxels
