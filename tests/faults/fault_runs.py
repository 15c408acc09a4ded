"""Commands as the fault tests start, wait for, interrupt and kill them, and what is left of them."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STAGES = ("vqgan", "ddpm")
LONGEST = 240.0  # seconds for one command on a busy machine
DATA = ["dataset.train=5", "dataset.val=1", "dataset.test=1", "dataset.volume_size=[16,16,16]",
        "dataset.xray_size=[32,32]", "dataset.prepare_workers=0", "model.gpus=0"]  # fmt: skip
VQGAN = ["model.n_codes=16", "model.n_hiddens=8", "model.n_res_blocks=1", "model.batch_size=2", "model.precision=32",
         "model.warmup_steps=1", "model.losses.adversarial.start=4",
         "model.losses.adversarial.discriminator.channels=4", "model.losses.adversarial.discriminator.num_layers_d=1",
         "model.validate_every=5", "model.checkpoint_every=2", "model.picture_every=6"]  # fmt: skip
DDPM = ["model.dim=8", "model.dim_mults=[1]", "model.batch_size=2", "model.precision=32", "model.warmup_steps=1",
        "model.xray_encoder.width=8", "model.xray_encoder.feature_channels=8", "model.xray_encoder.embedding_dim=16",
        "model.denoiser.blocks=1", "model.conditioning.depth_bins=2", "model.prior.rank=4", "model.validate_every=5",
        "model.save_and_sample_every=2", "model.sampling_timesteps=1"]  # fmt: skip


def stages(*slow: str) -> pytest.MarkDecorator:
    """Runs a test for both stages of training; `slow` names those of continuous integration."""
    values = [pytest.param(stage, marks=_mark(stage in slow)) for stage in STAGES]
    return pytest.mark.parametrize("training", values, indirect=True)


def stages_and(name: str, choices: Iterable, *slow: tuple) -> pytest.MarkDecorator:
    """The same for each stage with each choice of the argument `name`."""
    pairs = itertools.product(STAGES, choices)
    values = [pytest.param(*pair, marks=_mark(pair in slow)) for pair in pairs]
    return pytest.mark.parametrize(("training", name), values, indirect=["training"])


def _mark(slow: bool) -> pytest.MarkDecorator:
    return pytest.mark.slow if slow else pytest.mark.faults


class Command:
    """One started command."""

    def __init__(self, server: "Server", pid: int, log: Path):
        self.server, self.pid, self.log, self.code = server, pid, log, None

    def poll(self) -> int | None:
        """The exit code (minus the signal that killed it), or None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"do": "poll", "pid": self.pid})
        return self.code

    def wait(self, seconds: float = LONGEST) -> int:
        """The exit code; kills a command that takes longer."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"not done after {seconds:g} s: {self.text()}")
            time.sleep(0.02)
        return self.code

    def signal(self, number: int) -> None:
        """Sends a signal to the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def killed_after(self, seconds: float) -> bool:
        """Kills it (-9) after that time; False if it was done before."""
        time.sleep(seconds)
        self.signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def text(self) -> str:
        """Everything that it has said."""
        return "".join(Path(f"{self.log}.{name}").read_text(errors="replace") for name in ("stdout", "stderr"))

    def refusal(self) -> str:
        """Its one line of an error."""
        assert self.wait() == 1, self.text()
        assert "Traceback" not in self.text(), self.text()
        (line,) = [line for line in self.text().splitlines() if line.startswith("error: ")]
        return line

    def fine(self) -> str:
        """What it said, once it has ended well."""
        assert self.wait() == 0, self.text()
        return self.text()

    def until(self, found, seconds: float = LONGEST) -> None:
        """Waits until `found()`."""
        end = time.monotonic() + seconds
        while not found():
            assert self.poll() is None, f"ended with {self.code}: {self.text()}"
            assert time.monotonic() < end, self.text()
            time.sleep(0.005)


class Server:
    """The process of `fault_server.py`."""

    def __init__(self):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
        self.process = subprocess.Popen([sys.executable, str(HERE / "fault_server.py")], cwd=ROOT, env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert json.loads(self.process.stdout.readline()) == "ready"
        self.started = 0

    def ask(self, request: dict):
        """One request."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, script: str, *arguments, place: Path, env: dict | None = None, **faults) -> Command:
        """Starts a command in the folder `place`; `faults` names functions of `fault_injections.py`, with options."""
        self.started += 1
        log = Path(place) / f"command_{self.started}"
        request = {"do": "start", "script": str(ROOT / script), "arguments": [str(a) for a in arguments],
                   "cwd": str(place), "env": env or {}, "log": str(log), "faults": faults}  # fmt: skip
        return Command(self, self.ask(request), log)

    def close(self) -> None:
        """Ends the server."""
        self.process.stdin.close()
        self.process.wait()


class Training:
    """The commands of one stage over one place: cache and runs lie in it."""

    def __init__(self, server: Server, stage: str, place: Path, steps: int, *more, cache: Path | None = None):
        self.server, self.stage, self.place = server, stage, place
        self.script = f"train/train_{stage}.py"
        place.mkdir(parents=True, exist_ok=True)
        key, length, options = {
            "vqgan": ("model.default_root_dir", "model.max_steps", VQGAN),
            "ddpm": ("model.results_folder", "model.train_num_steps", DDPM),
        }[stage]
        folders = [f"dataset.cache_dir={cache or place / 'cache'}", f"{key}={place / 'runs'}"]
        self.words = [*DATA, *options, f"{length}={steps}", *folders, *more]

    def start(self, *more, env: dict | None = None, **faults) -> Command:
        """A new run."""
        return self.server.start(self.script, *self.words, *more, place=self.place, env=env, **faults)

    def resume(self, *more, **options) -> Command:
        """The run goes on."""
        return self.start("model.resume=auto", *more, **options)

    @property
    def last(self) -> Path:
        """`last.ckpt` of the first run."""
        return min((self.place / "runs").glob("*/checkpoints/last.ckpt"))

    def saves(self) -> list[int]:
        """When the checkpoints that are there were written."""
        found = (self.place / "runs").glob("*/checkpoints/last.ckpt")
        return [path.stat().st_mtime_ns for path in found]

    def until_saved(self, command: Command, count: int) -> None:
        """Waits until a command has written that many checkpoints, or is done."""
        seen = set(self.saves())
        first, end = len(seen), time.monotonic() + LONGEST
        while len(seen) < first + count and command.poll() is None:
            seen |= set(self.saves())
            assert time.monotonic() < end, command.text()
            time.sleep(0.002)

    def forget(self) -> None:
        """Removes the runs."""
        shutil.rmtree(self.place / "runs")

    def weights(self) -> dict[str, torch.Tensor]:
        """All tensors that the run has learned."""
        return weights(self.last)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Weights, averages, discriminator and the optimizers' moments of a checkpoint, by name."""
    content = torch.load(path, weights_only=True)
    found = {}

    def collect(tree, name: str) -> None:
        if isinstance(tree, torch.Tensor):
            found[name] = tree
        elif isinstance(tree, dict):
            for key, value in tree.items():
                collect(value, f"{name}.{key}")
        elif isinstance(tree, (list, tuple)):
            for key, value in enumerate(tree):
                collect(value, f"{name}.{key}")

    for part in ("state_dict", "ema", "adversarial", "optimizer_states"):
        collect(content.get(part, {}), part)
    return found


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not bit for bit the same."""
    assert a.keys() == b.keys() and a
    return [name for name in a if not torch.equal(a[name], b[name])]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder but those that killed processes left half written, which nothing reads."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and ".partial" not in path.name
    }
