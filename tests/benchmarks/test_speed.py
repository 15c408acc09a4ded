"""The speed benchmark: rows, tables, parameter counts, timing of every side, third-party libraries."""

import json
import multiprocessing
import subprocess

import pytest
import torch
from forked_command import CONTEXT

from benchmarks.speed import loading, measure, roofline, run, scaling, table, third_party
from benchmarks.speed.rows import ROWS, check_parameters, parameter_counts
from benchmarks.speed.workload import Row, Work, load_settings, setting_of

NAMES = {"unet_forward", "unet_step", "codebook", "vqgan_step", "loading", "vae_slices", "volume"}
MACHINE = {"device": "cpu", "name": "a machine", "versions": {}}
SIDES = [(row.name, side) for row in ROWS.values() for side in row.sides if "compile" not in side]


def needs_third_party() -> None:
    if third_party.missing():
        pytest.skip(f"not installed: {third_party.missing()}; `python benchmarks/speed/run.py` installs them")


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


def test_every_row_has_its_sizes():
    assert set(ROWS) >= NAMES
    for name, part in ROWS.items():
        assert next(iter(part.sides)) == "ours" and len(part.sides) > 1
        for size in (*part.sizes, "tiny"):
            assert name in load_settings(size)["sizes"], (name, size)


def test_a_row_has_its_fields_and_ratio_is_third_party_over_ours():
    line = measure.summarise(row(), found([1.0, 2.0, 3.0], [8.0, 8.0, 10.0], [4.0, 4.0, 4.0]), {"batch": 1}, MACHINE)
    assert {"name", "ours_s", "peer_s", "ratio", "peak_mb", "peer_peak_mb", "machine"} <= set(line)
    assert (line["ours_s"], line["peer_s"], line["ratio"]) == (2.0, 8.0, 4.0)
    assert line["peer"] == "slow" and [o["peer"] for o in line["others"]] == ["fast"]
    assert line["ratio_spread"] == [10.0 / 3.0, 8.0]
    json.dumps(line)


def test_the_ratio_may_be_against_the_fastest_third_party():
    line = measure.summarise(row(fastest=True), found([1.0], [8.0], [4.0]), {}, MACHINE)
    assert line["peer"] == "fast" and line["ratio"] == 4.0


def test_seconds_are_multiplied_by_the_number_of_steps():
    line = measure.summarise(row(times=1000), found([2.0], [8.0], [4.0]), {}, MACHINE)
    assert line["peer_s"] == 8000.0 and line["ratio"] == 4000.0


def test_a_failed_third_party_stands_in_the_table_and_the_row_stays():
    sides = found([1.0], [8.0], [4.0])
    sides["slow"] = {"error": "out of memory"}
    line = measure.summarise(row(), sides, {}, MACHINE)
    assert line["peer"] is None and line["ratio"] is None
    assert "failed: out of memory" in table.lines([line])


def test_the_table_has_a_line_per_third_party_and_equal_cells():
    line = measure.summarise(row(), found([1.0], [8.0], [4.0]), {}, MACHINE)
    head, rule, *lines = table.lines([line]).splitlines()
    assert len(lines) == 2
    assert {text.count("|") for text in (head, rule, *lines)} == {head.count("|")}


def test_the_table_explains_each_time_of_a_start():
    sides = found([1.0], [8.0], [4.0])
    times = {"latents_in_memory_s": 1.5, "start_cases": 1000, "first_epoch_ends_s": 2.5}
    sides["ours"] |= {**times, "headers_read_s": 0.5, "headers_cases": 3000}
    sides["slow"] |= {"latents_in_memory_s": 0.25, "first_epoch_ends_s": 4.5}
    line = measure.summarise(row(), {k: sides[k] for k in ("ours", "slow")}, {}, MACHINE)
    text = table.lines([line])
    assert "latents and X-rays of 1,000 cases from their files into memory 1.50 s against 0.250 s" in text
    assert "from a warm cache to the end of the first epoch 2.50 s against 4.50 s" in text
    assert "our data module over 3,000 cases ready, headers read alone, 0.500 s |" in text


@pytest.mark.parametrize(("value", "text"), [(0.000123456, "0.000123"), (12.345, "12.3"), (1234.5, "1234"), (0, "0")])
def test_numbers_are_written_with_three_digits(value, text):
    assert table._number(value) == text


def test_networks_are_compared_at_equal_parameter_count():
    needs_third_party()
    check_parameters(load_settings("cpu"))
    wide = load_settings("cpu")
    wide["networks"]["unet_peer"]["dim"] = 48
    counts = parameter_counts(wide)["unet"]
    assert counts["xray2ctpa"] > 1.5 * counts["ours"]
    with pytest.raises(ValueError, match="xray2ctpa.*apart"):
        check_parameters(wide)


@pytest.mark.parametrize(("name", "side"), SIDES, ids=lambda x: x.replace(" ", "_"))
@pytest.mark.frontal_check
def test_every_side_runs_at_a_tiny_size(name, side):
    if side != "ours":
        needs_third_party()
    torch.manual_seed(0)
    work = ROWS[name].sides[side](setting_of(name, load_settings("tiny")), "cpu")
    work.step()
    facts = {**work.facts, **work.finish()}
    json.dumps(facts)
    if name.startswith("loading"):  # both sides time the same start
        assert facts["latents_in_memory_s" if name == "loading" else "first_epoch_ends_s"] > 0
        assert facts["batches_an_epoch"] == 2


def test_our_start_reads_every_latent_and_standardises_it(tmp_path):
    setting = setting_of("loading", load_settings("tiny"), cases=3)
    encoder = loading.make_encoder(setting)
    loading.write_cache(3, setting, encoder, tmp_path)
    assert len(list(tmp_path.glob("**/latents-*/*.safetensors"))) == 4  # with one case for validation
    data = loading.latent_data(3, setting, encoder, tmp_path)
    assert data.train.latents.shape == (3, 4, 4, 4, 4) and data.train.in_memory
    assert data.train.latents.std().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["unet_forward", "vae_slices"])
def test_operations_of_both_sides_are_counted(name):
    needs_third_party()
    ours, peer = list(ROWS[name].sides.values())[:2]
    setting = setting_of(name, load_settings("tiny"))
    counted = [roofline.count(side(setting, "cpu").roofline)["gflop"] for side in (ours, peer)]
    assert min(counted) > 0
    if name == "vae_slices":  # the same network: only the batches differ
        assert counted[0] == pytest.approx(counted[1], rel=0.01)


def test_operations_and_bytes_of_a_product_equal_the_formula():
    a, b = torch.randn(32, 64), torch.randn(64, 16)
    counted = roofline.count(lambda: (a @ b) + 1)
    assert counted["gflop"] * 1e9 == 2 * 32 * 64 * 16
    assert counted["product_gb"] * 1e9 == pytest.approx(4 * (32 * 64 + 64 * 16 + 32 * 16))
    assert counted["all_gb"] * 1e9 == pytest.approx(counted["product_gb"] * 1e9 + 2 * 4 * 32 * 16)


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 2, 8, 4)
    counted = roofline.count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted["gflop"] * 1e9 == 2 * (2 * 2 * 8 * 8 * 4)


def busy(setting: dict, device: str) -> Work:
    """A side for the test below that holds `mb` of memory."""
    held = torch.ones(setting["mb"] * 2**18)
    finish = lambda: {"sum": float(torch.cat([held] * 4)[0])}  # noqa: E731 (takes memory that is not the work's)
    return Work(lambda: held.add_(1), {"mb": setting["mb"]}, finish)


def broken(setting: dict, device: str) -> Work:
    """A side that cannot be prepared."""
    raise RuntimeError("no such peer")


@pytest.mark.nightly
def test_each_side_runs_in_its_own_process(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)  # libraries are imported once
    part = Row("busy", "holding memory", {"ours": busy, "peer": busy, "broken": broken})
    sides = measure.measure(part, {"mb": 300}, "cpu", repeats=3, threads=1)
    assert len(sides["ours"]["seconds"]) == 3 and min(sides["ours"]["seconds"]) > 0
    assert sides["ours"]["peak_mb"] >= sides["ours"]["base_mb"] > 300
    assert sides["ours"]["peak_mb"] < sides["ours"]["base_mb"] + 300  # what comes after timing is not in it
    assert sides["broken"]["error"].endswith("no such peer")
    with pytest.raises(measure.SideFailed, match="no such peer"):
        measure.measure(Row("busy", "", {"ours": broken}), {"mb": 1}, "cpu", repeats=1, threads=1)


@pytest.mark.nightly
def test_the_command_writes_rows_and_table(tmp_path, capsys, monkeypatch):
    needs_third_party()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: CONTEXT)
    file, text = tmp_path / "a" / "rows.json", tmp_path / "b" / "c" / "rows.md"
    command = ["--tiny", "--only", "codebook", "--repeats", "2", "--threads", "1", "--skip", "MONAI"]
    assert run.main([*command, "--json", str(file), "--markdown", str(text)]) == 0  # folders are made
    (line,) = json.loads(file.read_text())
    assert line["name"] == "codebook" and line["repeats"] == 2
    assert line["ratio"] == pytest.approx(line["peer_s"] / line["ours_s"])
    assert text.read_text().startswith("| row |") and "`codebook`" in capsys.readouterr().out


def test_a_wrong_name_count_or_size_is_refused(capsys):
    for wrong in (["--only", "unet"], ["--repeats", "0"], ["--gpu", "--only", "volume", "loading"]):
        with pytest.raises(SystemExit):
            run.parse(wrong)
    message = capsys.readouterr().err
    assert "unet_forward" in message and "--only loading: this row has no gpu size; it has cpu" in message
    assert run.parse(["--gpu", "--only", "volume"]).only == ["volume"]
    assert run.parse(["--gpu", "--tiny", "--only", "loading"]).only == ["loading"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("command", [run, scaling])
def test_a_missing_gpu_is_an_error_before_any_installation(command, monkeypatch):
    monkeypatch.setattr(third_party, "install_missing", lambda: pytest.fail("installed"))
    with pytest.raises(ValueError, match="--gpu.*torch finds no GPU here; leave the option out"):
        command.main(["--gpu"])


ALL_BUT_MONAI = ("video-diffusion-pytorch", "vector-quantize-pytorch", "diffusers")


class Installer:
    """Stands for `subprocess`; `code` is what pip ends with."""

    def __init__(self, code: int, error: str = ""):
        self.code, self.error, self.called = code, error, []

    def run(self, command: list[str], **_):
        self.called.append(command)
        return subprocess.CompletedProcess(command, self.code, "", self.error)


def test_missing_libraries_are_installed_and_named(monkeypatch, capsys):
    pip = Installer(0)
    monkeypatch.setattr(third_party, "subprocess", pip)
    monkeypatch.setattr(third_party, "versions", lambda: dict.fromkeys(ALL_BUT_MONAI, "1"))
    third_party.install_missing()
    (command,) = pip.called
    assert command[1:] == ["-m", "pip", "install", "--quiet", "monai>=1.4"]
    assert capsys.readouterr().out == "installing missing third-party libraries: monai>=1.4\n"
    monkeypatch.setattr(third_party, "missing", list)
    third_party.install_missing()
    assert len(pip.called) == 1 and capsys.readouterr().out == ""


def test_a_failed_installation_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setattr(third_party, "subprocess", Installer(1, "a warning\nERROR: no network\n"))
    monkeypatch.setattr(third_party, "versions", lambda: dict.fromkeys(ALL_BUT_MONAI, "1"))
    with pytest.raises(third_party.ThirdPartyMissing) as error:
        third_party.install_missing()
    message = "pip install monai>=1.4: ERROR: no network; install them by hand, every row needs all of them"
    assert str(error.value) == message
