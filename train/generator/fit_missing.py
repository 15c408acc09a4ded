"""Parts of a finished model that are fitted later on its training cases, without training."""

from collections.abc import Sequence

import torch
from torch import nn

from common.errors import UserError
from dataset.cases.case_dataset import CaseDataset
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.latent import DecoderResidual
from ddpm.pipeline import XrayToCTPipeline
from train.generator.fit_consistency import fit_consistency, why_no_consistency
from train.generator.measure_parts import measure_residual, measure_spread


def _residual(pipeline: XrayToCTPipeline, cases: CaseDataset, device: torch.device) -> DecoderResidual:
    return measure_residual(pipeline.latent_encoder, cases, device)


def _spread(pipeline: XrayToCTPipeline, cases: CaseDataset, device: torch.device) -> TrainingSpread | None:
    return measure_spread(cases)


FITTED_LATER = {
    "decoder_residual": _residual,
    "training_spread": _spread,
    "consistency": fit_consistency,
}  # name to function of (pipeline, training cases, device)


def missing_parts(pipeline: XrayToCTPipeline, chosen: Sequence[str] | None) -> list[str]:
    """The chosen parts that the pipeline lacks, None for all that suit it; a `UserError` for an unknown name."""
    names = list(dict.fromkeys(chosen or FITTED_LATER))
    if unknown := sorted(set(names) - FITTED_LATER.keys()):
        raise UserError(f"parts=[{', '.join(names)}]: {unknown[0]} is unknown; choose of "
                        f"{', '.join(FITTED_LATER)}, or lung_guide alone")  # fmt: skip
    reason = why_no_consistency(pipeline)
    if reason and not chosen:
        print(f"consistency: not for this model: {reason}")
        names.remove("consistency")
    return [name for name in names if getattr(pipeline, name) is None]


def fit_parts(
    pipeline: XrayToCTPipeline, names: Sequence[str], cases: CaseDataset, device: torch.device
) -> dict[str, nn.Module]:
    """The parts of these names, fitted to training cases, without those that have too few; raises as each."""
    parts = {name: FITTED_LATER[name](pipeline, cases, device) for name in names}
    return {name: part for name, part in parts.items() if part is not None}
