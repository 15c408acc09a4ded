"""A small generator, X-rays to give it, and the whole application on a loopback port; not a test file."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from ddpm_parts import PROTOCOL, module
from PIL import Image

from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.pipeline import XrayToCTPipeline
from demo.service import requested_files
from demo.service.messages import Limits
from demo.service.service import Service

requested_files.FRAMES = 3  # of the GIF: half of the time that a small result takes

SAMPLERS = {
    "default": {"scheduler": "DPMSolverMultistepScheduler", "steps": 2, "guidance_scale": 1.0, "antithetic": True},
    "ddim": {"scheduler": "DDIMScheduler", "steps": 4, "guidance_scale": 1.0, "antithetic": True},
}


def small_pipeline(**protocol) -> XrayToCTPipeline:
    """Untrained, 32 voxels a side; another X-ray or seed gives another volume."""
    made = module()
    for parameter in made.trained["denoiser"].parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    made.keep_measured(None, TrainingSpread.from_numbers([4, 4, 4], [300.0] * 64, 40))
    pipeline = made.pipeline()
    pipeline.register_to_config(protocol={**PROTOCOL, "xray_size": [64, 64], "views": 1, **protocol})
    return pipeline


def small_service(folder: Path, pipeline=None, **options) -> Service:
    limits = {field.name: options.pop(field.name) for field in fields(Limits) if field.name in options}
    options = {"samplers": SAMPLERS, "preview_every": 1, "limits": Limits(**limits), **options}
    folder.mkdir(parents=True, exist_ok=True)
    return Service(small_pipeline() if pipeline is None else pipeline, folder, **options)


def save_film(path: Path, seed: int = 0, size: tuple[int, int] = (90, 80)) -> Path:
    """A grey picture with structure, as PNG; any seed gives another."""
    noise = np.random.default_rng(seed).uniform(size=(6, 6))
    image = Image.fromarray((noise * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    image.save(path)
    return path


def last(items) -> object:
    """The last item of a generation: its result."""
    result = None
    for item in items:  # noqa: B007
        result = item
    return result


@contextmanager
def served(app) -> Iterator[str]:
    """The address of an application that runs in a thread."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="error", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(600):
        if server.started:
            break
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
