"""Commands and functions in processes of their own, forked from one that has imported the libraries already.

Importing torch, Lightning and diffusers takes longer than most commands of the tests.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ["torch", "pytorch_lightning", "hydra", "diffusers.models", "monai.networks.nets", "pandas", "peft"]
PROJECT = ["train.run.training_run", "train.generator.build_data", "train.generator.build_module", "vq_gan_3d.module",
           "ddpm.module", "evaluation.scoring.evaluator", "evaluation.generation.open_pipeline"]  # fmt: skip

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*LIBRARIES, *PROJECT, "tests.forked_preload"])


def in_a_process(function: Callable, *arguments: Any) -> Any:
    """Returns `function(*arguments)` of a process of its own; the function stands at the top of a module."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(function, *arguments).result(timeout=600)


def run_command(
    script: str,
    *arguments: str,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess:
    """Runs `python <script> <arguments>` and returns exit code, stdout and stderr.

    Args:
        script: path below the repository.
        env: further environment variables; there is no network to a hub.
        before: function of a module that the process calls first, for a fault to plant.

    Raises:
        subprocess.TimeoutExpired: after `timeout` seconds; the process is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", **(env or {})}
        options = (str(ROOT / script), arguments, str(cwd), environment, files, before)
        process = CONTEXT.Process(target=_run, args=options)
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(script, timeout)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in files))


def _run(script: str, arguments: tuple[str, ...], cwd: str, environment: dict[str, str], files, before) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        stream.flush()
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream.fileno())
    import huggingface_hub.constants
    import torch

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # read from the environment at its import
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    sys.argv = [script, *arguments]
    sys.path[:] = [os.path.dirname(script), *sys.path]
    if before is not None:
        before()
    runpy.run_path(script, run_name="__main__")
