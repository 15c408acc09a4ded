"""Pictures of cases for the README: X-ray, true CT and generated CT side by side, and a sheet in three planes."""

from pathlib import Path

import torch

from dataset.errors import UserError
from dataset.geometry import extent_mm
from evaluation import pictures
from evaluation.inputs import told_extents
from evaluation.sampling import sample_volumes


def write_case_figures(
    pipeline, cases, output: Path, count: int = 3, samples: int = 4, seed: int = 0, batch_size: int = 4
) -> list[Path]:
    """Writes `case_<n>.gif` for the first `count` cases, and `cases.png`; gives back their paths.

    The first cases, whatever they look like: chosen ones would show what the model rarely does. Several samples are
    shown as their mean.

    Raises:
        UserError: no case, or fewer than asked for.
    """
    if not 1 <= count <= len(cases):
        raise UserError(f"cases={count}: give 1 to {len(cases)}, as many as the split holds")
    seen = [cases.case(index) for index in range(count)]
    ids = [str(name) for name in cases.rows["id"].iloc[:count]]
    xrays = torch.stack([case["xray"].float().unsqueeze(1) for case in seen])
    poses = torch.stack([case["pose"] for case in seen])
    extents = torch.tensor([extent_mm(case["ct"].shape, case["spacing"].tolist()) for case in seen])
    extents = told_extents(poses, extents, pipeline)
    drawn = sample_volumes(pipeline, xrays, poses, ids, samples, batch_size, seed, extents)
    volumes = [volume.mean(dim=0) for _, batch in drawn for volume in batch]
    grey, written, rows = pictures.display_window(pipeline.window), [], []
    for number, (case, volume) in enumerate(zip(seen, volumes, strict=True), start=1):
        spacing, xray = tuple(case["spacing"].tolist()), case["xray"][0].float()
        path = output / f"case_{number}.gif"
        pictures.save_gif(path, pictures.case_frames(xray, case["ct"], volume, spacing, grey))
        written.append(path)
        title = f"case {number}: {'mean of ' + str(samples) + ' samples' if samples > 1 else 'one sample'}"
        rows.append(pictures.CasePicture(title, xray, case["ct"].float(), volume, spacing))
    pictures.case_sheet(rows, grey).save(output / "cases.png")
    return [*written, output / "cases.png"]
