"""The volumes of a study: three arms of each case with one spacing, one window and one crop.

Any other difference between arms would unblind the readers: a finer grid, a larger field, other HU at the edges.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.hu_window import Window
from dataset.imaging.resampling import resample
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume
from evaluation.generation.model_inputs import ModelInputs
from evaluation.readers.design import ARMS
from evaluation.readers.study_folder import read_text_table

SAME_MM = 0.01


def arm_maker(pipeline, cases, seed: int = 0) -> Callable[[str, int], Volume]:
    """`(arm, index) -> Volume` of a generator: the case itself, its reconstruction by the autoencoder, one sample.

    One sample, never the mean of several: a mean is smoother than any CT.
    """
    window = pipeline.window

    @torch.no_grad()
    def make(arm: str, index: int) -> Volume:
        case = cases.case(index)
        hu = case["ct"].float()
        if arm == "generated":
            inputs = ModelInputs.of_cases([case], pipeline)
            hu = pipeline(
                inputs.xrays,
                inputs.poses,
                num_samples=1,
                seed=seed,
                ids=[str(cases.rows["id"].iloc[index])],
                extent=inputs.extents,
                batch_size=1,
                progress=lambda step, total: None,
                allow_any_picture=True,
            ).volumes[0, 0]
        elif arm == "autoencoder":
            encoder = pipeline.latent_encoder
            latents = encoder.encode_raw(window.normalise(hu)[None, None].to(encoder.device))
            hu = window.denormalise(encoder.decode_raw(latents).float())[0, 0].cpu()
        return Volume(hu.float().numpy(), tuple(case["spacing"].tolist()), tuple(case["centre"].tolist()))

    return make


def read_table(path: str | Path) -> tuple[pd.DataFrame, Callable[[str, int], Volume]]:
    """Cases and `(arm, index) -> Volume` of a table: columns id, patient, the three arms (NIfTI files), label.

    Files are relative to the table; `label` is 0, 1 or -1 and may be absent. Raises UserError for a table that is
    missing or malformed, a repeated id, a missing file and another label.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"volumes={path}: no such file; give a CSV with id, patient, {', '.join(ARMS)} and label")
    rows = read_text_table(path, ("id", "patient", *ARMS), ", label")
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise UserError(f"{path}: two rows have the id {repeated.iloc[0]}; ids must be unique")
    rows["label"] = rows["label"].str.strip().replace("", "-1") if "label" in rows.columns else "-1"
    odd = rows["label"][~rows["label"].isin(("0", "1", "-1"))]
    if len(odd):
        raise UserError(f"{path}: row {odd.index[0] + 2} has label={odd.iloc[0]}; choose 0, 1, -1")
    rows["label"] = rows["label"].astype(int)
    for arm in ARMS:
        for row, name in enumerate(rows[arm], start=2):
            if not (path.parent / name).is_file():
                raise UserError(f"{path}: row {row} has {arm}={name}, no such file; name a NIfTI file for each arm")
    return rows, lambda arm, index: _read(path.parent / rows[arm].iloc[index])


def _read(path: Path) -> Volume:
    """The volume of a file; slices that were not scanned repeat the last ones."""
    volume = read_volume(path)
    volume.hu = fill(volume.hu)[0]
    return volume


def common_grid(
    volumes: Sequence[Volume], spacing: Sequence[float] | None = None, crop: Sequence[int] | None = None
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Size and spacing (mm) in which every volume of the study can be shown, `(D, H, W)`.

    By default the coarsest spacing of any volume along each axis, so that none is sharper for its grid, and the
    largest field that lies within all of them. Raises UserError for a finer spacing and for a crop that reaches beyond
    a volume.
    """
    coarsest = np.max([v.spacing for v in volumes], axis=0)
    chosen = coarsest if spacing is None else np.asarray(spacing, dtype=float)
    if (chosen < coarsest - SAME_MM).any():
        raise UserError(
            f"spacing={[float(s) for s in chosen]}: a volume has {[round(float(s), 3) for s in coarsest]} mm, and "
            "would be the only blurred one; give that or more"
        )
    largest = np.floor(np.min([v.extent for v in volumes], axis=0) / chosen + 1e-3).astype(int)
    size = largest if crop is None else np.asarray(crop, dtype=int)
    if (size < 1).any() or (size > largest).any():
        raise UserError(f"crop={size.tolist()}: all volumes hold at most {largest.tolist()} voxels")
    return tuple(size.tolist()), tuple(chosen.tolist())


def onto_grid(
    volume: Volume, size: tuple[int, int, int], spacing: tuple[float, float, float], window: Window
) -> Float[np.ndarray, "d h w"]:
    """Whole HU on the study's grid, cropped around the centre, clipped to the window."""
    hu = volume.hu
    if np.abs(np.subtract(volume.spacing, spacing)).max() > SAME_MM:
        hu = resample(volume, size, spacing).hu
    starts = [(n - s) // 2 for n, s in zip(hu.shape, size, strict=True)]
    hu = hu[tuple(slice(start, start + n) for start, n in zip(starts, size, strict=True))]
    return np.rint(hu.clip(window.low, window.high)).astype(np.float32)
