"""The settings of generated volumes as plain JSON, for the demo, the Python interface and the command."""

import platform
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.files import sha256
from dataset.imaging.geometry import fill_unknown
from dataset.imaging.unknown_pixels import present_views
from ddpm.conditioning.pose_regressor import FIELDS, PoseRegressor
from ddpm.diffusion.sample_spread import root_mean_square, sample_spread
from evaluation.generation.sample import Sampling
from evaluation.generation.xray_inputs import GeneratorInput
from evaluation.generation.xray_warnings import ASSUMED, training_distance
from evaluation.visualization.slices import SYNTHETIC

NOISE_ID = "xray"  # seeds the noise of every generation: equal seeds give equal noise, whatever the X-ray
NOMINAL = "nominal: the pose of the X-ray and the size of the patient are unknown, so volumes in ml are not valid"


def describe_run(pipeline, checkpoint: Path | None, sampling: Sampling) -> dict:
    """Settings that all volumes of a run share."""
    return {
        "mark": SYNTHETIC,
        "checkpoint": None if checkpoint is None else {"file": str(checkpoint), "sha256": sha256(checkpoint)},
        **pipeline.describe(),
        "samples": sampling.samples,
        "seed": sampling.seed,
        "volume_size": list(pipeline.volume_size),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def describe_input(given: GeneratorInput, pipeline) -> dict:
    """Geometry, alignment, predicted pose, distance from the training X-rays and warnings of an input.

    `lung_guide`, of an X-ray with a guide, says whether the sampler of `pipeline` uses it: not with
    `sampler.consistency=on`, which updates the volume towards the X-ray instead. `consistency` says whether this is
    done where the sampler leaves it to the pose.
    """
    spacing = [e / n for e, n in zip(given.extent, pipeline.volume_size, strict=True)]
    geometry, regressor = NOMINAL if given.nominal else "of the input", pipeline.pose_regressor
    pose = {} if regressor is None else {"pose_regressor": predicted_offsets(given, regressor)}
    guide = {} if given.guide is None else {"lung_guide": not pipeline.consistent}
    seen = {"training_distance": training_distance(given, pipeline), "warnings": given.warnings}
    note = {"reprojection_note": ASSUMED} if given.nominal else {}
    if getattr(pipeline, "consistency", None) is not None and pipeline.consistent is None:
        unknown = given.pose[present_views(given.xray[None, :, None])[0]].isnan().any()
        note["consistency"] = "off: unknown pose" if unknown else "on"
    return {"spacing": spacing, "geometry": geometry, **given.notes, **guide, **pose, **seen, **note}


def spread_parts(
    samples: Float[Tensor, "s d h w"], predictive: Float[Tensor, "s d h w"], antithetic: bool
) -> dict[str, float] | None:
    """Root mean square spread in HU over the volume, of the latents alone and with the decoder's residual.

    None for one sample.
    """
    if len(samples) < 2:
        return None
    drawn = {"latents": samples, "with_decoder_residual": predictive}
    return {name: round(root_mean_square(sample_spread(of, antithetic)), 1) for name, of in drawn.items()}


def predicted_offsets(given: GeneratorInput, regressor: PoseRegressor) -> list[dict | None]:
    """Predicted offsets of each view from its nominal pose by field; None for a view without prediction."""
    place = {"device": regressor.weight.device, "dtype": torch.float32}
    pose = fill_unknown(given.pose, tuple(given.extent))
    offsets = regressor.offsets(given.xray[None, :, None].to(**place), pose[None].to(**place))[0]
    predicted = (given.pose.isnan().any(dim=-1) & regressor.covers(pose.to(**place)).cpu()).tolist()
    return [
        dict(zip(FIELDS, (round(value, 3) for value in view), strict=True)) if known else None
        for view, known in zip(offsets.tolist(), predicted, strict=True)
    ]
