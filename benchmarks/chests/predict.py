"""Volumes of each kind of row for given cases: diffusion, baselines, peer, weights of phantoms."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from benchmarks.chests import peer_training
from benchmarks.chests.fold import Cases, Predicted, stacked
from benchmarks.chests.variants import MEAN, SAMPLE, baseline_name
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.scoring.baselines import COMPONENTS, PENALTIES, Baselines

AT = "@"  # between `ridge` and its penalty


def diffusion(pipeline, name: str, cases: Cases, samples: int, seed: int, batch_size: int = 8) -> Predicted:
    """The mean of `samples` volumes (method `name`) and the first of them (`name` + `SAMPLE`) of each case.

    A pipeline of another size gets the extent of the case, and its volumes are resized to the case.
    """
    size = tuple(cases.cases[0]["ct"].shape)
    ratio = torch.tensor(size) / torch.tensor(pipeline.volume_size)
    inputs = ModelInputs.of_cases([{**case, "spacing": case["spacing"] * ratio} for case in cases.cases], pipeline)
    sampling = Sampling(samples, seed=seed, batch_size=max(batch_size, samples))
    drawn = torch.cat([volumes for _, volumes in sample_volumes(pipeline, inputs, cases.ids, sampling)])
    drawn = torch.stack([resized(volumes, size) for volumes in drawn])
    if samples == 1:
        return Predicted({name: drawn[:, 0]})
    volumes = {name + MEAN: drawn.mean(dim=1), name + SAMPLE: drawn[:, 0]}
    return Predicted(volumes, {name: drawn}, bool(pipeline.describe().get("antithetic")))


def baselines(fitted: Baselines, row: str, cases: Cases) -> Predicted:
    """Nearest case, mean, and ridge regression with each penalty and all components, which the table chooses from."""
    xrays, found = stacked(cases), {}
    fitted.ridge.num_components = max(COMPONENTS)
    for penalty in PENALTIES:
        fitted.ridge.penalty = penalty
        volumes = fitted.predict(xrays)
        found[f"{baseline_name('ridge', row)}{AT}{penalty:g}"] = volumes.pop("ridge")
        found |= {baseline_name(name, row): of for name, of in volumes.items()}
    return Predicted(found)


def peer(network, name: str, cases: Cases, window) -> Predicted:
    """Volumes of the peer."""
    return Predicted({name: peer_training.predict(network, stacked(cases), window)})


def resized(volumes: Float[Tensor, "s d h w"], size: tuple[int, int, int]) -> Float[Tensor, "s a b c"]:
    """Block means onto a coarser grid of the same extent, linear interpolation onto a finer one."""
    if tuple(volumes.shape[1:]) == tuple(size):
        return volumes
    if volumes.shape[1] > size[0]:
        return F.interpolate(volumes[None], size=size, mode="area")[0]
    return F.interpolate(volumes[None], size=size, mode="trilinear", align_corners=False)[0]
