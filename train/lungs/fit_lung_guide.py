"""Fits the lung guide of a finished model to training cases, and writes it as a file of its own."""

from pathlib import Path

import torch

from common.errors import UserError
from dataset.cases.case_dataset import CaseDataset
from ddpm.consistency.guide_file import fingerprint, save_guide
from ddpm.consistency.lung_guide import LungGuide
from ddpm.pipeline import XrayToCTPipeline
from train.generator.fit_consistency import training_case

FITTED_ON = 40  # evenly spread cases
LUNG_GUIDE = "lung_guide"  # of `parts`


def write_lung_guide(pipeline: XrayToCTPipeline, cases: CaseDataset, device: torch.device, path: Path) -> Path:
    """Writes the guide from at most `FITTED_ON` cases, decoded and predicted from pure noise.

    Raises UserError for a window that does not show air.
    """
    window = pipeline.window
    if not window.keeps_line_integrals:
        raise UserError(f"parts=[lung_guide]: the window [{window.low:g}, {window.high:g}] HU does not show lungs")
    pipeline.to(device)
    places = torch.linspace(0, len(cases) - 1, min(FITTED_ON, len(cases))).round().long().tolist()
    guide = LungGuide(pipeline.latent_encoder.latent_shape(pipeline.volume_size))
    found = (training_case(pipeline, cases[place], device) for place in places)
    guide.fit(
        (case.latents, case.predicted, pipeline.decode(case.latents[None].to(device)).cpu()[0, 0]) for case in found
    )
    pipeline.to("cpu")
    save_guide(guide, path, fingerprint(pipeline.latent_encoder), {"cases": len(places)})
    return path
