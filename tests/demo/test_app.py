"""The command: checks before the start, samplers, and cleanup at the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from demo_parts import SAMPLERS, small_pipeline

from common.errors import UserError
from ddpm.diffusion.objective import NoiseObjective
from demo.server.app_factory import NIIVUE
from demo.server.launch import PREFIX, check_address, is_loopback, run_folder, sampler_choices

ROOT = Path(__file__).resolve().parent.parent.parent


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "port", "password", "line"),
    [
        ("0.0.0.0", 7860, None, "host=0.0.0.0: other machines can reach it; set password="),
        ("::", 7860, None, "other machines can reach it"),
        ("192.168.1.7", 7860, None, "other machines can reach it"),
        ("ward.example", 7860, None, "other machines can reach it"),
        ("127.0.0.1", 7860, "short", "give at least 8"),
        ("127.0.0.1", 7860, 20241129, "password=…: read as a number; quote it twice"),
        ("127.0.0.1", 0, None, "port=0"),
        ("127.0.0.1", 70000, None, "port=70000"),
    ],
)
def test_an_unprotected_address_is_refused(host, port, password, line):
    with pytest.raises(UserError, match=line) as refused:
        check_address(host, port, password)
    assert "short" not in str(refused.value) and "20241129" not in str(refused.value)


def test_a_port_in_use_is_an_error_of_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot listen there"):
            check_address("127.0.0.1", taken.getsockname()[1], None)
    check_address("127.0.0.1", free_port(), None)


def test_is_loopback():
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", ""))


def test_the_run_folder_is_deleted_with_those_of_killed_runs(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mask = os.umask(0o022)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, alive = tmp_path / f"{PREFIX}{dead.pid}_abc", tmp_path / f"{PREFIX}{os.getpid()}_abc"
    for folder in (left, alive):
        (folder / "uploads").mkdir(parents=True)
    with run_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0 and not left.exists() and alive.exists()
        assert tempfile.gettempdir() == str(folder)
    assert not folder.exists()
    os.umask(mask)


def test_fitting_samplers_are_offered_the_chosen_one_first():
    pipeline = small_pipeline()
    found = sampler_choices(pipeline, "ddim", {**SAMPLERS["ddim"], "steps": 7})
    assert next(iter(found)) == "ddim" and found["ddim"]["steps"] == 7
    assert {"default", "preview", "ancestral"} <= set(found) and not {"flow_euler", "fast"} & set(found)
    flow = {"scheduler": "FlowMatchEulerDiscreteScheduler", "steps": 4}
    with pytest.raises(UserError, match="sampler=flow_euler"):
        sampler_choices(pipeline, "flow_euler", flow)


def test_a_flow_model_is_offered_samplers_of_flows():
    pipeline = small_pipeline()
    pipeline.training_scheduler = NoiseObjective(prediction="flow").scheduler()
    assert set(sampler_choices(pipeline, "default", SAMPLERS["default"])) == {
        "default",
        "preview",
        "sde",
        "flow_euler",
    }


def test_a_distilled_model_is_offered_its_own_sampler_alone():
    pipeline = small_pipeline()
    own = {"scheduler": "DPMSolverMultistepScheduler", "steps": 1, "spacing": "trailing"}
    pipeline.register_to_config(protocol={**pipeline.protocol, "distilled": {"sampler": own}})
    fast = {"scheduler": "distilled", "steps": None, "guidance_scale": 1.0}
    found = sampler_choices(pipeline, "fast", fast)
    assert list(found) == ["fast"] and found["fast"]["steps"] == 1
    with pytest.raises(UserError, match="sampler=default: .*set sampler=fast"):
        sampler_choices(pipeline, "default", SAMPLERS["default"])


def command(tmp_path: Path, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("GRADIO_TEMP_DIR", None)
    words = [sys.executable, "demo/app.py", *options]
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("host=0.0.0.0",), "error: host=0.0.0.0: other machines can reach it"),
        (("checkpoint=README.md",), "error: README.md: "),
        (("sampler=flow_euler",), "error: sampler=flow_euler"),
        (("prot=1",), "error: prot: unknown key; did you mean port?"),
    ],
)
def test_wrong_options_end_in_one_line(tmp_path, options, line):
    run = command(tmp_path, f"port={free_port()}", *options)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 1 and said.splitlines()[-1].startswith(line)
    assert "Traceback" not in said and not list(tmp_path.glob(f"{PREFIX}*"))


@pytest.mark.slow
@pytest.mark.skipif(not NIIVUE.is_file(), reason="the viewer is not installed (make web)")
def test_a_signal_ends_it_without_remains(tmp_path):
    port = free_port()
    run = command(tmp_path, f"port={port}")
    try:
        lines = iter(run.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}" in line for line in lines)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with urlopen(f"http://127.0.0.1:{port}/") as page:
                    assert b"gradio" in page.read()
                break
            except OSError:  # 503 until the model is loaded
                time.sleep(0.2)
        else:
            pytest.fail("the page did not open within a minute")
        (folder,) = tmp_path.glob(f"{PREFIX}*")
        assert (folder / "uploads").is_dir()
    finally:
        run.send_signal(signal.SIGTERM)
        rest = run.communicate(timeout=60)[0]
    assert not list(tmp_path.glob(f"{PREFIX}*")) and "Traceback" not in rest
