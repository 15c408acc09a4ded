"""Parts of the page: escaped text, progress, durations, samples; the lock file of npm."""

import json

import numpy as np
import pytest
from PIL import Image

from common.files import ROOT
from dataset.io.xray import read_xray_image
from demo.page import html
from demo.service.examples import SAMPLES, draw_sample
from demo.service.messages import Progress
from demo.service.xray_checks import CheckedXray

DEMO = ROOT / "demo"


def test_foreign_text_is_escaped(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    evil = "<img src=x onerror=alert(1)>"
    for made in (html.xray_preview(CheckedXray(tmp_path / "x.png", evil, [evil])), html.message(evil)):
        assert "onerror=alert(1)>" not in made and "&lt;img" in made


def test_progress_contains_queue_position_step_and_time():
    assert "3 before you" in html.progress(Progress(3, 0, 12), "")
    working = html.progress(Progress(0, 4, 12, 125.4), "<img>")
    assert "step 4 of 12" in working and "2 min 5 s left" in working and 'value="4"' in working
    assert html.MARK in working  # the picture of the current prediction is synthetic too


@pytest.mark.parametrize("seconds, text", [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3601, "60 min 1 s")])
def test_duration(seconds, text):
    assert html.duration(seconds) == text


def test_a_sample_is_a_frontal_xray_with_the_heart_on_the_left(tmp_path):
    sample = draw_sample(SAMPLES[1], tmp_path)
    image = np.asarray(read_xray_image(sample.xray).image, dtype=float)
    rows = image[int(0.45 * len(image)) : int(0.6 * len(image))]
    middle = image.shape[1] // 2
    span = image.shape[1] // 5
    assert rows[:, middle : middle + span].mean() > rows[:, middle - span : middle].mean()
    assert draw_sample(SAMPLES[1], tmp_path) == sample and sample.truth.is_file()
    with pytest.raises(KeyError):
        draw_sample("../../etc/passwd", tmp_path)


def test_the_lock_file_contains_hashes_and_no_address():
    lock = json.loads((DEMO / "package-lock.json").read_text())
    pinned = json.loads((DEMO / "package.json").read_text())["dependencies"]
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert not any("resolved" in entry for entry in packages.values())
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    for name, version in pinned.items():
        assert version[0].isdigit() and packages[f"node_modules/{name}"]["version"] == version
