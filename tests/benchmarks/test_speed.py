"""The speed benchmark: rows have their form, peers load, networks are compared at equal size, every side runs."""

import json

import pytest
import torch

from benchmarks.speed import floor, measure, peers, run, table
from benchmarks.speed.rows import ROWS, check_parameters, parameter_counts
from benchmarks.speed.work import Row, Work, load_settings, setting_of

NAMES = {"unet_forward", "unet_step", "codebook", "vqgan_step", "loading", "vae_slices", "volume"}
MACHINE = {"device": "cpu", "name": "a machine", "versions": {}}
SIDES = [(row.name, side) for row in ROWS.values() for side in row.sides if "compile" not in side]


def needs_peers() -> None:
    if peers.missing():
        pytest.skip(f"not installed: {', '.join(peers.missing())}; `python benchmarks/speed/run.py` installs them")


def found(ours: list[float], peer: list[float], other: list[float]) -> dict:
    def side(seconds: list[float], **facts) -> dict:
        return {"seconds": seconds, "cpu_seconds": seconds, "peak_mb": 100.0, "base_mb": 50.0, **facts}

    return {
        "ours": side(ours, precision="bfloat16"),
        "slow": side(peer, precision="float32"),
        "fast": side(other, precision="float32"),
    }


def row(**options) -> Row:
    return Row("unet_forward", "work", {"ours": None, "slow": None, "fast": None}, **options)


def test_every_row_of_the_table_is_there_with_its_sizes():
    assert set(ROWS) >= NAMES
    for name, part in ROWS.items():
        assert next(iter(part.sides)) == "ours" and len(part.sides) > 1
        for size in (*part.sizes, "tiny"):
            assert name in load_settings(size)["sizes"], (name, size)


def test_a_row_has_the_fields_that_are_promised_and_ratio_is_peer_over_ours():
    line = measure.summarise(row(), found([1.0, 2.0, 3.0], [8.0, 8.0, 10.0], [4.0, 4.0, 4.0]), {"batch": 1}, MACHINE)
    assert {"name", "ours_s", "peer_s", "ratio", "peak_mb", "peer_peak_mb", "machine"} <= set(line)
    assert (line["ours_s"], line["peer_s"], line["ratio"]) == (2.0, 8.0, 4.0)
    assert line["peer"] == "slow" and [o["peer"] for o in line["others"]] == ["fast"]
    assert line["ratio_spread"] == [10.0 / 3.0, 8.0]
    json.dumps(line)


def test_the_fastest_peer_is_the_one_to_beat_where_a_row_says_so():
    line = measure.summarise(row(fastest=True), found([1.0], [8.0], [4.0]), {}, MACHINE)
    assert line["peer"] == "fast" and line["ratio"] == 4.0


def test_a_thousand_steps_are_counted_and_not_run():
    line = measure.summarise(row(times=1000), found([2.0], [8.0], [4.0]), {}, MACHINE)
    assert line["peer_s"] == 8000.0 and line["ratio"] == 4000.0


def test_a_peer_that_fails_is_told_and_does_not_take_the_row_with_it():
    sides = found([1.0], [8.0], [4.0])
    sides["slow"] = {"error": "out of memory"}
    line = measure.summarise(row(), sides, {}, MACHINE)
    assert line["peer"] is None and line["ratio"] is None
    assert "failed: out of memory" in table.lines([line])


def test_the_table_has_one_line_a_side_and_as_many_cells_as_its_head():
    line = measure.summarise(row(), found([1.0], [8.0], [4.0]), {}, MACHINE)
    head, rule, *lines = table.lines([line]).splitlines()
    assert len(lines) == 2
    assert {text.count("|") for text in (head, rule, *lines)} == {head.count("|")}


@pytest.mark.parametrize(("value", "text"), [(0.000123456, "0.000123"), (12.345, "12.3"), (1234.5, "1234"), (0, "0")])
def test_numbers_are_written_with_three_digits(value, text):
    assert table._number(value) == text


def test_networks_are_compared_at_equal_parameter_count():
    needs_peers()
    check_parameters(load_settings("cpu"))
    wide = load_settings("cpu")
    wide["networks"]["unet_peer"]["dim"] = 48
    counts = parameter_counts(wide)["unet"]
    assert counts["ancestor"] > 1.5 * counts["ours"]
    with pytest.raises(ValueError, match="ancestor.*apart"):
        check_parameters(wide)


@pytest.mark.parametrize(("name", "side"), SIDES, ids=lambda x: x.replace(" ", "_"))
def test_every_side_runs_at_a_tiny_size(name, side):
    if side != "ours":
        needs_peers()
    device = "cuda" if "CUDA" in side else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: CUDA graphs")
    torch.manual_seed(0)
    work = ROWS[name].sides[side](setting_of(name, load_settings("tiny")), device)
    work.step()
    json.dumps({**work.facts, **work.finish()})


@pytest.mark.parametrize("name", ["unet_forward", "vae_slices"])
def test_both_sides_are_given_the_same_arithmetic_to_count(name):
    needs_peers()
    ours, peer = list(ROWS[name].sides.values())[:2]
    setting = setting_of(name, load_settings("tiny"))
    counted = [floor.count(side(setting, "cpu").floor)["gflop"] for side in (ours, peer)]
    assert min(counted) > 0
    if name == "vae_slices":  # the same network: only the batches differ
        assert counted[0] == pytest.approx(counted[1], rel=0.01)


def test_operations_and_bytes_of_a_product_are_those_of_the_formula():
    a, b = torch.randn(32, 64), torch.randn(64, 16)
    counted = floor.count(lambda: (a @ b) + 1)
    assert counted["gflop"] * 1e9 == 2 * 32 * 64 * 16
    assert counted["product_gb"] * 1e9 == pytest.approx(4 * (32 * 64 + 64 * 16 + 32 * 16))
    assert counted["all_gb"] * 1e9 == pytest.approx(counted["product_gb"] * 1e9 + 2 * 4 * 32 * 16)


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 2, 8, 4)
    counted = floor.count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted["gflop"] * 1e9 == 2 * (2 * 2 * 8 * 8 * 4)


def busy(setting: dict, device: str) -> Work:
    """A side for the test below: holds the memory that it is told to hold."""
    held = torch.ones(setting["mb"] * 2**18)
    return Work(lambda: held.add_(1), {"mb": setting["mb"]}, lambda: {"sum": float(held[0])})


def broken(setting: dict, device: str) -> Work:
    """A side that cannot be prepared."""
    raise RuntimeError("no such peer")


@pytest.mark.slow
def test_sides_run_in_processes_of_their_own():
    part = Row("busy", "holding memory", {"ours": busy, "peer": busy, "broken": broken})
    sides = measure.measure(part, {"mb": 300}, "cpu", repeats=3, threads=1)
    assert len(sides["ours"]["seconds"]) == 3 and min(sides["ours"]["seconds"]) > 0
    assert sides["ours"]["peak_mb"] >= sides["ours"]["base_mb"] > 300
    assert sides["broken"]["error"].endswith("no such peer")
    with pytest.raises(measure.SideFailed, match="no such peer"):
        measure.measure(Row("busy", "", {"ours": broken}), {"mb": 1}, "cpu", repeats=1, threads=1)


@pytest.mark.slow
def test_the_command_writes_rows_and_table(tmp_path, capsys):
    needs_peers()
    file, text = tmp_path / "rows.json", tmp_path / "rows.md"
    command = ["--tiny", "--only", "codebook", "--repeats", "2", "--threads", "1", "--skip", "MONAI"]
    assert run.main([*command, "--json", str(file), "--markdown", str(text)]) == 0
    (line,) = json.loads(file.read_text())
    assert line["name"] == "codebook" and line["repeats"] == 2
    assert line["ratio"] == pytest.approx(line["peer_s"] / line["ours_s"])
    assert text.read_text().startswith("| row |") and "`codebook`" in capsys.readouterr().out


def test_a_wrong_name_or_count_is_refused(capsys):
    for wrong in (["--only", "unet"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            run.parse(wrong)
    assert "unet_forward" in capsys.readouterr().err
