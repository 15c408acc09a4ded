"""How a generated volume was made, as plain JSON: enough to make it again, from page, program or command line."""

import platform
from pathlib import Path

import torch

from ddpm.checkpoint import sha256
from evaluation.inputs import Shown
from evaluation.pictures import SYNTHETIC

NOMINAL = "nominal: the pose of the film and the size of the patient are unknown, so no volume in ml can be read off"


def noise_id(digest: str) -> str:
    """What the noise of an X-ray depends on: the SHA-256 of its file's content, and never where the file lies."""
    return digest[:16]


def describe_run(pipeline, checkpoint: Path | None, samples: int, seed: int) -> dict:
    """What all volumes of a run have in common."""
    return {
        "mark": SYNTHETIC,
        "checkpoint": None if checkpoint is None else {"file": str(checkpoint), "sha256": sha256(checkpoint)},
        **pipeline.describe(),
        "samples": samples,
        "seed": seed,
        "volume_size": list(pipeline.volume_size),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def describe_input(shown: Shown, digest: str, size: tuple[int, int, int]) -> dict:
    """Noise, geometry and notes of one input; `size` is that of the volume in voxels, `digest` that of the file."""
    spacing = [e / n for e, n in zip(shown.extent, size, strict=True)]
    geometry = NOMINAL if shown.nominal else "of the input"
    return {"noise_id": noise_id(digest), "spacing": spacing, "geometry": geometry, **shown.notes}
