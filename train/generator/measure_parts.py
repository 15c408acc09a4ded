"""Measures parts of a model on training cases: the decoder's residual, and the spread of the volumes themselves."""

from collections import Counter

import torch
from torch import Tensor

from common.autocast import inference_autocast
from common.errors import user_errors
from dataset.cases.case_dataset import CaseDataset
from dataset.sources.morphs import PHANTOM
from ddpm.diffusion.training_spread import TrainingSpread
from ddpm.latent import DecoderResidual, LatentEncoder
from train.distributed.processes import print_once

RESIDUAL_OF = 24  # evenly spread cases
SLICES, FEW = 8, 8  # consecutive slices of a case, and cases, with an encoder that works slice by slice and takes long
VOXELS = 2**26  # of all cases together, to limit the memory
SPREAD_OF = 60  # evenly spread cases: a variance has a relative standard error of 18 % at most
FEWEST = 20  # cases for the spread: of 32 %


@user_errors()
def measure_residual(encoder: LatentEncoder, cases: CaseDataset, device: torch.device) -> DecoderResidual:
    """The residual of at most `RESIDUAL_OF` cases; prints its size.

    Raises UserError without a scanned voxel.
    """
    most = FEW if encoder.slicewise else RESIDUAL_OF
    count = max(1, min(most, len(cases), VOXELS // cases[0]["ct"].numel()))
    chosen = torch.linspace(0, len(cases) - 1, count).round().int().tolist()
    encoder.to(device)
    pairs = [_decoded(encoder, cases[index], device) for index in chosen]
    encoder.cpu()
    found = DecoderResidual().fit(pairs)
    known = [(truth - decoded if scanned is None else (truth - decoded)[scanned]) for truth, decoded, scanned in pairs]
    root = torch.cat([part.flatten() for part in known]).square().mean().sqrt() * cases.window.width / 2.0
    print_once(f"decoder's residual: {float(root):.0f} HU root mean square in {count} training cases")
    return found


@torch.no_grad()
def _decoded(encoder: LatentEncoder, item: dict, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """A volume, its reconstruction and its scanned voxels; of a slicewise encoder the middle slices."""
    truth, scanned = item["ct"], item.get("scanned")
    if encoder.slicewise and truth.shape[1] > SLICES:
        first = (truth.shape[1] - SLICES) // 2
        truth = truth[:, first : first + SLICES]
        scanned = None if scanned is None else scanned[:, first : first + SLICES]
    with inference_autocast(device):
        decoded = encoder.decode_raw(encoder.encode_raw(truth[None].to(device)))
    decoded = decoded.float().clamp(-1.0, 1.0).cpu()[0, 0]
    return truth[0], decoded, None if scanned is None or scanned.all() else scanned[0]


def measure_spread(cases: CaseDataset) -> TrainingSpread | None:
    """The spread of at most `SPREAD_OF` cases; prints its size, or for fewer than `FEWEST` why it returns None."""
    if len(cases) < FEWEST:
        print_once(
            f"spread of training volumes, for evidence maps: not measured: {len(cases)} training cases, {FEWEST} are "
            "needed (dataset.morphs=<number> makes more of few CTs)"
        )
        return None
    chosen = torch.linspace(0, len(cases) - 1, min(SPREAD_OF, len(cases))).round().int().tolist()
    kinds = Counter(_kind(cases.rows.iloc[index]) for index in chosen)
    read = (cases.case(index) for index in chosen)
    found = TrainingSpread.fit(((case["ct"], case.get("scanned")) for case in read), cases.window, dict(kinds))
    root, made = float(found.sd.square().mean().sqrt()), ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    print_once(f"spread of training volumes: {root:.0f} HU root mean square in {len(chosen)} cases ({made})")
    return found


def _kind(row) -> str:
    """`phantoms` (drawn), `morphs` (of patients) or `patients`, by the row of the manifest."""
    if str(row["id"]).startswith(PHANTOM):
        return "phantoms"
    return "morphs" if str(row.get("parents", "") or "") else "patients"
