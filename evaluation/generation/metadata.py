"""How a generated volume was made, as plain JSON: enough to make it again, from page, program or command line."""

import platform
from pathlib import Path

import torch

from common.files import sha256
from dataset.imaging.geometry import fill_unknown
from ddpm.conditioning.pose_regressor import FIELDS, PoseRegressor
from evaluation.generation.xray_inputs import Shown
from evaluation.visualization.slices import SYNTHETIC

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


def describe_input(shown: Shown, digest: str, pipeline) -> dict:
    """Noise, geometry and notes of one input; `digest` is that of the file."""
    spacing = [e / n for e, n in zip(shown.extent, pipeline.volume_size, strict=True)]
    geometry = NOMINAL if shown.nominal else "of the input"
    guessed = (
        {"pose_guess": guessed_pose(shown, pipeline.pose_regressor)} if pipeline.pose_regressor is not None else {}
    )
    return {"noise_id": noise_id(digest), "spacing": spacing, "geometry": geometry, **shown.notes, **guessed}


def guessed_pose(shown: Shown, guess: PoseRegressor) -> list[dict | None]:
    """How far off its nominal pose each view is taken to be, which it was laid by; None where it was not."""
    place = {"device": guess.weight.device, "dtype": torch.float32}
    pose = fill_unknown(shown.pose, tuple(shown.extent))
    offsets = guess.offsets(shown.xray[None, :, None].to(**place), pose[None].to(**place))[0]
    told = [dict(zip(FIELDS, (round(value, 3) for value in view), strict=True)) for view in offsets.tolist()]
    unknown = (shown.pose.isnan().any(dim=-1) & guess.covers(pose.to(**place)).cpu()).tolist()
    return [view if is_unknown else None for view, is_unknown in zip(told, unknown, strict=True)]
