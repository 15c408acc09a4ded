"""Launch of the server: address checks, run folder, samplers, signals."""

import ipaddress
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from common.cli import CONFIG
from common.errors import UserError

PREFIX = "xray2ct_demo_"
# keys of a `sampler` node
NOT_OF_SOLVER = ("steps", "guidance_scale", "antithetic", "decoder_residual", "consistency")
MIN_PASSWORD = 8  # characters
SILENCED = ("pydicom", "PIL", "nibabel", "httpx", "uvicorn.access")
SILENCED += ("dataset.io.xray", "evaluation.generation.xray_inputs")


def check_address(host: str, port: int, password: str | None) -> None:
    """Raises UserError for a network address without a password, one that is short or a number, or a wrong port."""
    if password is not None and not isinstance(password, str):
        raise UserError("password=…: read as a number; quote it twice, as in 'password=\"2024_1129\"'")
    if password is not None and len(str(password)) < MIN_PASSWORD:
        raise UserError(f"password=…: {len(str(password))} characters; give at least {MIN_PASSWORD}")
    if not is_loopback(host) and password is None:
        raise UserError(
            f"host={host}: other machines can reach it; set password=<at least {MIN_PASSWORD} characters>, or leave "
            "host=127.0.0.1"
        )
    if not 0 < int(port) < 65536:
        raise UserError(f"port={port}: give a port from 1 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        raise UserError(f"host={host} port={port}: cannot listen there ({error.strerror}); give another") from error


def silence_libraries() -> None:
    """Hides messages of libraries that may quote a file, and disables look-ups on the Hugging Face Hub."""
    warnings.filterwarnings("ignore")
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name may resolve to any address
        return False


@contextmanager
def run_folder() -> Iterator[Path]:
    """Yields a private folder and deletes it afterwards; also deletes the folders of killed runs."""
    os.umask(0o077)
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        found = re.fullmatch(rf"{PREFIX}(\d+)_\w+", left.name)
        if found and left.is_dir() and left.stat().st_uid == os.getuid() and not _runs(int(found.group(1))):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}_"))
    tempfile.tempdir = str(folder)  # temporary files of libraries too
    try:
        yield folder
    finally:
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)


def sampler_choices(pipeline, chosen: str, node: dict) -> dict[str, dict]:
    """Returns the `sampler` config nodes that fit this model by name; UserError if the first, `chosen`, does not."""
    from ddpm.diffusion.distilled import choose_solver
    from ddpm.diffusion.samplers import make_sampler  # late, so that `check_address` needs no torch

    found = {chosen: node}
    for file in sorted((CONFIG / "sampler").glob("*.yaml")):
        found.setdefault(file.stem, OmegaConf.to_container(OmegaConf.load(file), resolve=True))
    fitting = {}
    for name, options in found.items():
        own = {k: v for k, v in options.items() if k not in NOT_OF_SOLVER}
        chosen_solver = (own.pop("scheduler"), options["steps"], own.pop("spacing", None), own)
        try:
            scheduler, steps, spacing, solver = choose_solver(pipeline.protocol, *chosen_solver)
            make_sampler(scheduler, pipeline.training_scheduler, spacing, **solver)
        except (ValueError, UserError) as error:
            if name == chosen:
                raise UserError(f"sampler={name}: {error}") from error
            continue
        fitting[name] = {**options, "steps": steps}
    return fitting


def end_by_signals() -> None:
    """Ends the program through Python on SIGTERM and SIGHUP, so that cleanup code runs."""

    def leave(*_) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def url_of(host: str, port: int) -> str:
    """The address of the page."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
