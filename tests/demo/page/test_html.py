"""Parts of the page: escaped text, progress, durations, samples; the lock file of npm."""

import json
from pathlib import Path

import pytest
from PIL import Image

from common.files import ROOT
from dataset.imaging.frontal_check import why_not_frontal
from dataset.io.xray import read_xray
from demo.page import html
from demo.server.app_factory import NIIVUE, viewer_files
from demo.service.examples import EXAMPLES, draw_sample
from demo.service.messages import Progress
from demo.service.trust import how_far_to_trust
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
    assert html.MARK in working and "Preliminary" in working  # the picture of the prediction so far is synthetic too


@pytest.mark.parametrize("seconds, text", [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3601, "60 min 1 s")])
def test_duration(seconds, text):
    assert html.duration(seconds) == text


PHANTOM = "Phantom: average"


def test_the_banner_says_how_far_to_trust_the_result():
    phantom, real = (how_far_to_trust({"dataset": name}) for name in ("phantom", "chests"))
    assert "drawing" in html.banner({"trust": phantom}) and html.MARK in html.banner({"trust": phantom})
    assert "typical of the training patients" in html.banner({"trust": real}) and "drawing" not in real
    follows, _, typical = real.partition(";")
    assert "lungs" in follows and not any(word in follows.lower() for word in ("size", "chest wall"))
    assert "size" in typical.lower() and "chest wall" in typical


@pytest.mark.parametrize(
    "name",
    [*(name for name in EXAMPLES if not name.startswith("Phantom")), pytest.param(PHANTOM, marks=pytest.mark.slow)],
)
def test_an_example_is_a_frontal_xray(name, tmp_path):
    sample = draw_sample(name, tmp_path)
    image = read_xray(sample.xray, (256, 256))
    assert why_not_frontal(image) is None
    rows = image[int(0.45 * len(image)) : int(0.6 * len(image))]
    middle, span = image.shape[1] // 2, image.shape[1] // 5
    if sample.truth is not None:  # a DRR is centred
        assert rows[:, middle : middle + span].mean() > rows[:, middle - span : middle].mean()  # the heart on the left
    assert draw_sample(name, tmp_path) == sample and sample.xray.stat().st_size < 250_000
    assert (sample.truth is not None) == EXAMPLES[name].has_truth == (not name.startswith("Film"))
    assert sample.truth is None or sample.truth.is_file()


def test_unknown_examples_are_refused(tmp_path):
    with pytest.raises(KeyError):
        draw_sample("../../etc/passwd", tmp_path)


def test_the_xray_of_an_example_comes_with_its_source(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    checked = CheckedXray(tmp_path / "x.png", "PA", [])
    for example in EXAMPLES.values():
        assert example.note in html.xray_preview(checked, example.note)
    assert all("CC BY 3.0" in example.note for example in EXAMPLES.values() if example.phantom is None)


def test_the_lock_file_contains_hashes_and_no_address():
    lock = json.loads((DEMO / "package-lock.json").read_text())
    pinned = json.loads((DEMO / "package.json").read_text())["dependencies"]
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert not any("resolved" in entry for entry in packages.values())
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    for name, version in pinned.items():
        assert version[0].isdigit() and packages[f"node_modules/{name}"]["version"] == version


@pytest.mark.skipif(not NIIVUE.is_file(), reason="the viewer is not installed (make web)")
def test_routes_name_existing_files_only():
    files = viewer_files()
    assert all(isinstance(path, Path) and path.is_file() for path in files.values())
    assert {"viewer.js", "viewer.css", "niivue.js"} <= set(files)
