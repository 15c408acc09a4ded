"""Measures how long a user waits from an X-ray to a CT, in the command, in Python and on the page; prints JSON.

`python benchmarks/speed/waiting.py [repetitions]`, by default 3; shipped weights, a real film, one sample, 12 steps,
on the CPU. Wall times hold on a machine without other work only; CPU seconds include all threads of the process.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
sys.path[0:0] = [str(ROOT), str(ROOT / "tests" / "demo")]

FILM, EXAMPLE = ROOT / "assets" / "films" / "hannover_3b46de94.png", "Film: slim, PA"
PATIENCE = 300.0  # seconds
RUNNING = """
import json, sys, time
from ddpm.light_diffusers import import_diffusers
import_diffusers()
from pathlib import Path
from omegaconf import OmegaConf
from evaluation.generation.open_pipeline import SHIPPED, open_generator
from evaluation.generation.public_pipeline import XrayToCTPipeline
node = OmegaConf.load("config/sampler/default.yaml")
pipeline = XrayToCTPipeline.of(*open_generator(str(SHIPPED), "cpu", node))
pipeline.set_progress_bar_config(disable=True)
found = []
for number in range(int(sys.argv[2]) + 1):  # the first is a warm-up
    begun, cpu = time.monotonic(), time.process_time()
    (result,) = pipeline.stream([Path(sys.argv[1])], 1, 0)
    result.write_mean_and_spread(Path(sys.argv[3]) / f"{number}.nii.gz", Path(sys.argv[3]) / "spread.nii.gz")
    found.append({"wall_s": time.monotonic() - begun, "cpu_s": time.process_time() - cpu})
print(json.dumps(found[1:]))
"""


def whole_process(folder: Path) -> dict:
    """A generation by the command, from its start to its end."""
    words = ["evaluation/generate.py", f"xray={FILM}", f"output={folder / 'command'}", "overwrite=true", "device=cpu"]
    begun, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, *words, "checkpoint=shipped"], cwd=ROOT, check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.monotonic() - begun, "cpu_s": cpu}


def running_process(folder: Path, repetitions: int) -> list[dict]:
    """From the film to the NIfTI file, with the model loaded."""
    words = [sys.executable, "-c", RUNNING, str(FILM), str(repetitions), str(folder)]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, env=_environment())
    return json.loads(done.stdout.splitlines()[-1])


def page(folder: Path) -> dict:
    """From the start of the page to its first answer and to the application, then from the button to the pictures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    words = [sys.executable, "demo/app.py", f"port={port}", "device=cpu", "checkpoint=shipped"]
    begun = time.monotonic()
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, env=_environment(TMPDIR=str(folder)))
    try:
        found, status = {}, None
        while status != 200:
            status = _status(address)
            if status is not None:
                name = "start_to_first_answer" if status == 503 else "start_to_application"
                found.setdefault(name, {"wall_s": time.monotonic() - begun, "cpu_s": _cpu(server.pid)})
            if server.poll() is not None or time.monotonic() - begun > PATIENCE:
                sys.exit(f"error: the page did not start (exit code {server.poll()})")
            time.sleep(0.02 if status is None else 0.3)  # each question costs the server time
        return found | _generate(address, server.pid)
    finally:
        server.terminate()
        server.wait(60)


def _generate(address: str, process: int) -> dict:
    from browser import chromium, watched_page

    found = {}
    with chromium() as browser, watched_page(browser) as shown:
        shown.goto(address)
        shown.locator("#xc-samples label", has_text=EXAMPLE).click()
        shown.wait_for_selector(".xc-seen img")
        shown.wait_for_timeout(2000)
        for run in ("first", "second"):
            begun, cpu = time.monotonic(), _cpu(process)
            shown.locator("#xc-generate").click()
            for name, selector in (("first_slice", ".xc-preview img"), ("volume", ".xv[data-ready]")):
                shown.wait_for_selector(selector)
                found[f"{run}_generate_to_{name}"] = {
                    "wall_s": time.monotonic() - begun,
                    "cpu_s": _cpu(process) - cpu,  # of the server, not of the browser
                }
            shown.wait_for_timeout(1000)
    return found


def _status(address: str) -> int | None:
    try:
        with urlopen(address, timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        return error.code
    except OSError:
        return None


def _cpu(process: int) -> float:
    """CPU seconds of a running process (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def _rounded(item):
    if isinstance(item, dict):
        return {name: _rounded(value) for name, value in item.items()}
    return [_rounded(value) for value in item] if isinstance(item, list) else round(item, 2)


def main(repetitions: int = 3) -> None:
    found = {"machine": platform.platform(), "load": os.getloadavg()[0], "threads": os.environ.get("OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole_process(folder)  # reads the files from disk once
        found["whole_process"] = _rounded([whole_process(folder) for _ in range(repetitions)])
        found["film_to_nifti"] = _rounded(running_process(folder, repetitions))
        found["page"] = _rounded([page(folder) for _ in range(repetitions)])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
