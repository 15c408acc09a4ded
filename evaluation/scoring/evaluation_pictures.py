"""Pictures of an evaluation: the sheet from the best to the worst case, NIfTI and GIF files."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.io.nifti import write_nifti
from evaluation.visualization import sheets
from evaluation.visualization import slices as pictures
from evaluation.visualization.evidence import evidence_sheet

SHEET_ROWS = 5  # odd, so that the median case is among them


def file_name(name: str) -> str:
    """An id as part of a file name."""
    return re.sub(r"[^\w.-]", "_", name)


def check_file_names(ids: Iterable[str]) -> None:
    """Raises UserError if the files of two ids would have one name."""
    taken: dict[str, str] = {}
    for name in ids:
        other = taken.setdefault(file_name(name), name)
        if other != name:
            raise UserError(f"ids: the files of {other} and {name} would have one name, {file_name(name)}; rename one")


def write_pictures(
    output: Path,
    cases,
    ids,
    generated,
    scores,
    window,
    nifti: int,
    evidence: Callable[[int], Float[Tensor, "d h w"] | None] = lambda index: None,
) -> None:
    """Writes `sheet.png` with cases evenly spread over the ranks of PSNR, and files of the first `nifti` cases.

    `evidence.png` has the evidence maps of the same cases, where there are any. `generated` is HU `(n, D, H, W)`,
    `scores` the result of `score_cases`; `evidence` gives the map of a case by its position.
    """
    grey = pictures.display_window(window)
    model = scores[scores.method == "model"].reset_index(drop=True)
    order = model.psnr.to_numpy().argsort()[::-1]
    rows, maps = [], []
    for place in np.unique(np.linspace(0, len(order) - 1, min(SHEET_ROWS, len(order))).round().astype(int)):
        index, case = int(order[place]), cases.case(int(order[place]))
        title = f"{ids[index]}: PSNR {model.psnr[index]:.1f} dB, rank {place + 1} of {len(order)}"
        volumes = (case["xray"][0].float(), case["ct"].float(), generated[index])
        rows.append(sheets.CasePicture(title, *volumes, tuple(case["spacing"].tolist())))
        maps.append(evidence(index))
    sheets.case_sheet(rows, window).save(output / "sheet.png")
    if all(found is not None for found in maps):
        evidence_sheet(rows, maps, grey).save(output / "evidence.png")
    for folder in ("nifti", "gif"):
        (output / folder).mkdir(exist_ok=True)

    def write(index: int) -> None:
        case, name = cases.case(index), file_name(ids[index])
        spacing, centre = case["spacing"].tolist(), case["centre"].tolist()
        write_nifti(output / "nifti" / f"{name}_generated.nii.gz", generated[index], spacing, centre)
        truth = case["ct"].float()
        if "scanned" in case:  # marked, so that evaluation/score.py leaves the same voxels out
            truth = torch.where(case["scanned"], truth, NOT_SCANNED_HU)
        write_nifti(output / "nifti" / f"{name}_true.nii.gz", truth, spacing, centre, "reference volume")
        frames = sheets.case_frames(case["xray"][0].float(), case["ct"], generated[index], spacing, grey)
        sheets.save_gif(output / "gif" / f"{name}.gif", frames)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(write, range(min(nifti, len(ids)))))
