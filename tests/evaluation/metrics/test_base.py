"""A new file adds a metric; scoring tensors needs no ray caster, file format or training library."""

import subprocess
import sys

import pytest
import torch
from evaluation_fakes import chest_world, score

import evaluation.metrics
from common.files import ROOT
from dataset.imaging.hu_window import Window
from evaluation.metrics.catalogue import catalogue

NEW = """
from evaluation.metrics.base import Metric

METRICS = (
    Metric("worst_hu", "worst, HU", lambda view: (view.predictions - view.truth).abs().amax(dim=(1, 2, 3)), "largest"),
)
"""


@pytest.fixture
def extended(tmp_path, monkeypatch):
    (tmp_path / "worst.py").write_text(NEW)
    monkeypatch.setattr(evaluation.metrics, "__path__", [*evaluation.metrics.__path__, str(tmp_path)])
    catalogue.cache_clear()
    yield tmp_path
    catalogue.cache_clear()
    sys.modules.pop("evaluation.metrics.worst", None)


def test_a_new_file_is_a_new_metric(extended):
    case = chest_world(1, 3).case(0)
    volume = case["ct"].float().clamp(-1000, 1000)
    volume[3, 4, 5] += 70.0
    assert score(volume, case, Window(-1500.0, 1500.0), ["worst_hu"]) == {"worst_hu": pytest.approx(70.0)}


def test_two_metrics_of_one_name_raise(extended):
    (extended / "worst.py").write_text(NEW.replace("worst_hu", "psnr"))
    with pytest.raises(ValueError, match="a metric psnr exists already"):
        catalogue()


@pytest.mark.slow
def test_tensors_are_scored_without_optional_packages():
    code = """
import sys
for name in ("nanodrr", "SimpleITK", "nibabel", "pydicom", "monai", "torchmetrics", "hydra", "lightning",
             "pytorch_lightning", "torchvision", "diffusers", "matplotlib"):
    sys.modules[name] = None  # importing it raises
import torch
from dataset.imaging.hu_window import Window
from dataset.phantom.render import render_phantom
from evaluation.scoring.score_cases import FIDELITY, score_case
phantom = render_phantom(0, size=(24, 24, 24))
case = {"ct": torch.from_numpy(phantom.hu), "labels": torch.from_numpy(phantom.labels), "spacing": phantom.spacing,
        "xray": torch.zeros(1, 8, 8), "pose": torch.zeros(1, 9)}
volumes = {"model": torch.from_numpy(phantom.hu)}
found = score_case(case, volumes, Window(-1000.0, 1000.0), metrics=FIDELITY)[0]
assert found["psnr"] == 100.0 and found["heart_dice_labels"] == 1.0 and found["reprojection"] != found["reprojection"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scores_are_computed_on_the_device_of_the_prediction():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = chest_world(1, 3).case(0)
    case.pop("xray"), case.pop("pose")
    names = ["psnr", "lung_dice", "gradient_spectrum", "noise_power_spectrum", "left_right", "body_dice"]
    found = score(case["ct"].float().to(device), case, Window(-1000.0, 1000.0), names)
    assert found["psnr"] == 100.0 and found["lung_dice"] == 1.0 and found["noise_power_spectrum"] == 0.0
