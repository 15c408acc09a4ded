"""Growth with size: exponents, the table, points of the curves."""

import json
import multiprocessing

import pytest
from forked_command import CONTEXT

from benchmarks.speed import scaling
from benchmarks.speed.workload import load_settings, setting_of


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_the_power_of_the_larger_points(power):
    x = [1, 10, 100, 1000, 10000]
    y = [5.0 + v**power for v in x]  # a constant cost hides the power at small sizes only
    assert scaling.exponent(x, y) == pytest.approx(power, abs=0.02)


def test_work_without_further_memory_is_flat():
    assert scaling.exponent([1, 2, 4], [0.0, 0.0, 0.0]) is None
    curve = {"name": "work", "axis": "voxels", "x": [1, 2], "seconds": [1.0, 2.0], "extra_mb": [0.0, 0.0]}
    assert scaling.lines([{**curve, "time_exponent": 1.0, "memory_exponent": None}]).endswith("| voxels^1.00 | flat |")


def test_the_table_marks_growth_above_linear():
    curve = {"name": "work", "axis": "voxels", "x": [1, 2], "seconds": [1.0, 4.0], "extra_mb": [1.0, 2.0]}
    text = scaling.lines([{**curve, "time_exponent": 2.0, "memory_exponent": 1.0}])
    assert "voxels^2.00 (more than linear)" in text and "voxels^1.00 |" in text


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_memory_over_cases_is_that_of_the_process(power):
    x = [100, 300, 1000, 3000, 10000]
    peak = [900.0 + 0.25 * n**power for n in x]
    curve = {"name": "epoch", "axis": "cases", "x": x, "seconds": x, "peak_mb": peak, "extra_mb": [0.0] * 5}
    curve |= {"time_exponent": 1.0, "memory_exponent": scaling.memory_exponent(curve)}
    assert curve["memory_exponent"] == pytest.approx(power, abs=0.05)
    text = scaling.lines([curve])
    assert f"100: {peak[0]:.0f}" in text and ("0.250 MiB a case |" in text) == (power == 1.0)
    assert ("a case (more than linear)" in text) == (power == 2.0)


@pytest.mark.parametrize("tiny", [True, False])
def test_every_curve_changes_a_key_that_its_row_has(tiny):
    settings = load_settings("tiny" if tiny else "cpu")
    for name, (side, row, _, points) in scaling.curves(tiny, gpu=False).items():
        assert callable(side) and len({x for x, _ in points}) == len(points) > 1, name
        for _, changes in points:
            assert set(changes) <= set(setting_of(row, settings)), name


@pytest.mark.nightly
def test_the_command_writes_table_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)  # libraries are imported once
    command = ["--tiny", "--only", "codebook", "start", "--repeats", "1", "--threads", "1", "--output", str(tmp_path)]
    assert scaling.main(command) == 0
    curves = json.loads((tmp_path / "scaling.json").read_text())["curves"]
    assert [curve["repeats"] for curve in curves] == [1, 1]
    assert [curve["name"] for curve in curves] == ["codebook over vectors", "start over cases"]
    assert (tmp_path / "scaling.png").stat().st_size > 1000 and "codebook" in (tmp_path / "scaling.md").read_text()
