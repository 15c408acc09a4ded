"""A small linear world with a planted light decoder, true line integrals and known errors; not a test file."""

import torch

from dataset.imaging.drr_options import DrrSettings
from ddpm.consistency.light_decoder import LightDecoder
from ddpm.consistency.projection_consistency import ProjectionConsistency, TrainingCase
from ddpm.consistency.ray_matrix import ray_matrix

SHAPE, FACTORS, PIXELS = (2, 4, 4, 4), (2, 2, 2), 8
EXTENT = torch.tensor([320.0, 256.0, 352.0])


def planted() -> LightDecoder:
    decoder, generator = LightDecoder(2, FACTORS), torch.Generator().manual_seed(5)
    decoder.linear[:, :, 1, 1, 1] = torch.tensor([0.004, 0.002]) * (1.0 + 0.2 * torch.rand(8, 1, generator=generator))
    decoder.offset.fill_(0.015)
    return decoder


def world(n: int, views: int = 1, seed: int = 0) -> list[TrainingCase]:
    """Cases whose predicted latents have errors that are equal in both channels."""
    generator, poses = torch.Generator().manual_seed(seed), DrrSettings().poses(tuple(EXTENT.tolist()), views)
    rays = ray_matrix((8, 8, 8), tuple(EXTENT.tolist()), poses, PIXELS)
    found = []
    for _ in range(n):
        z = torch.randn(SHAPE, generator=generator)
        error = 0.5 * torch.randn(1, *SHAPE[1:], generator=generator).expand(SHAPE)
        integrals = rays.project(planted()(z[None]).flatten(1))[0]
        integrals = integrals + 0.1 * torch.randn(integrals.shape, generator=generator)
        xray = ((integrals - 0.1) / 5.0).view(views, 1, PIXELS, PIXELS)
        found.append(TrainingCase(z, z + error, xray, poses, EXTENT, str(len(found))))
    return found


def of_patients(cases: list[TrainingCase], each: int, seed: int = 0) -> list[TrainingCase]:
    """The cases, `each` in turn of one patient, whose X-rays share a nuisance of that patient."""
    generator, found = torch.Generator().manual_seed(100 + seed), []
    for first in range(0, len(cases), each):
        shared = 0.04 * torch.randn(cases[first].xray.shape, generator=generator)
        for case in cases[first : first + each]:
            found.append(case._replace(xray=case.xray + shared, patient=f"{seed} {first}"))
    return found


def fitted(views: int = 1, n: int = 60, cases: list[TrainingCase] | None = None) -> ProjectionConsistency:
    cases = world(n, views) if cases is None else cases
    pairs = [(case.latents[None], planted()(case.latents[None])) for case in cases]
    return ProjectionConsistency(SHAPE, FACTORS, views, PIXELS, rank=2, max_side=2).fit(cases, pairs)


def measure(model: ProjectionConsistency, case: TrainingCase):
    return model.measurement(case.xray, case.pose, case.extent)
