"""Fits the projection consistency of a finished model to training cases."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from jaxtyping import Float
from torch import Tensor

from common.autocast import inference_autocast
from common.errors import UserError, user_errors
from dataset.cases.case_dataset import CaseDataset
from dataset.imaging.forward_model import ForwardModel, attenuation_map
from dataset.imaging.geometry import extent_mm
from ddpm.consistency.projection_consistency import (
    ProjectionConsistency,
    TrainingCase,
    attenuation_parts,
    light_factors,
)
from ddpm.pipeline import XrayToCTPipeline
from train.distributed.processes import print_once

FITTED_ON = 120  # evenly spread cases
DECODED = 20  # of them, to whose decoded volumes the light decoder is fitted
PIXELS = 64  # side of the X-rays that are compared
SEED = 0  # of the noise from which the network predicts the cases


def why_no_consistency(pipeline: XrayToCTPipeline) -> str | None:
    """Why samples of a model cannot be compared with its X-rays; None if they can."""
    model = ForwardModel.of_protocol(pipeline.protocol)
    if pipeline.protocol.get("input") == "volume" or model is None:
        return "its data do not state how their X-rays came about"
    if model.pose != "known":
        return f"the pose of its X-rays is {model.pose}"
    if model.image != "log":
        return f"its X-rays have the grey scale {model.image}, not that of line integrals (log)"
    if not pipeline.window.keeps_line_integrals:
        return f"its window [{pipeline.window.low:g}, {pipeline.window.high:g}] HU falsifies line integrals"
    return None


@user_errors()
def fit_consistency(pipeline: XrayToCTPipeline, cases: CaseDataset, device: torch.device) -> ProjectionConsistency:
    """The projection consistency from at most `FITTED_ON` cases of known pose; prints its chi².

    The network predicts each case from pure noise, as in the first step of the sampler.

    Raises UserError for a model without known forward model, and for fewer than 8 cases of known pose, also with a
    patient left out.
    """
    if reason := why_no_consistency(pipeline):
        raise UserError(f"parts=[consistency]: not for this model: {reason}")
    posed = [i for i in range(len(cases)) if not cases.condition(i)["pose"].isnan().any()]
    places = torch.linspace(0, len(posed) - 1, min(FITTED_ON, len(posed))).round().long() if posed else []
    pipeline.to(device)
    shape = pipeline.latent_encoder.latent_shape(pipeline.volume_size)
    chosen, patients = [posed[int(place)] for place in places], list(cases.rows["patient"])
    found = [training_case(pipeline, cases[i], device, str(patients[i])) for i in chosen]
    pairs = (_decoded(pipeline, case.latents, device) for case in found[:: max(1, len(found) // DECODED)])
    grid = light_factors(shape, pipeline.volume_size, PIXELS)
    model = ProjectionConsistency(shape, grid, views=pipeline.protocol["views"], pixels=PIXELS)
    model.fit(found, ((latents, attenuation_parts(volume, model.grid)) for latents, volume in pairs)).eval()
    pipeline.to("cpu")
    print_once(
        f"projection consistency: chi² per pixel of true latents {float(model.level):.2f}, of the network's first "
        f"prediction at most {float(model.limit):.2f}, in {len(found)} training cases"
    )
    return model


class _FirstPrediction(Exception):
    """Ends a generation after its first step."""


@contextmanager
def _network_alone(pipeline: XrayToCTPipeline) -> Iterator[None]:
    """No update of predictions towards the X-ray within the context."""
    sampling = dict(pipeline.config.sampling)
    pipeline.set_sampler(**{**sampling, "consistency": False})
    try:
        yield
    finally:
        pipeline.set_sampler(**sampling)


def training_case(pipeline: XrayToCTPipeline, item: dict, device: torch.device, patient: str = "") -> TrainingCase:
    """The case with the network's prediction of its latents from pure noise."""
    volume, xray, pose = item["ct"][None], item["xray"], item["pose"]
    extent = torch.tensor(extent_mm(volume.shape[2:], item["spacing"].tolist()))
    with inference_autocast(device):
        latents = pipeline.latent_encoder.encode(volume.to(device)).float().cpu()[0]
    predicted = []

    def keep(step: int, clean: Tensor) -> None:
        predicted.append(clean[0].cpu())
        raise _FirstPrediction

    options = {"seed": SEED, "ids": [item["id"]], "extent": extent[None], "allow_any_picture": True}
    with suppress(_FirstPrediction), _network_alone(pipeline):
        pipeline(xray[None], pose[None], preview=keep, **options)
    return TrainingCase(latents, predicted[0], xray, pose, extent, patient)


def _decoded(
    pipeline: XrayToCTPipeline, latents: Float[Tensor, "c d h w"], device: torch.device
) -> tuple[Float[Tensor, "1 c d h w"], Float[Tensor, "1 1 D H W"]]:
    """Latents with the attenuation of their decoded volume."""
    attenuation = attenuation_map(ForwardModel.of_protocol(pipeline.protocol).attenuation)
    return latents[None], attenuation.of(pipeline.decode(latents[None].to(device)).cpu())
