"""Every metric of every method on every case: one row each, in HU, against the truth clipped to the same window."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from rich.progress import track
from torch import Tensor

from dataset.drr import line_integrals, scale_xray
from dataset.intensity import Window
from dataset.lungs import segment_lungs
from evaluation import metrics

METRICS = ("psnr", "ssim", "mae_hu", "mae_hu_body", "lung_dice", "reprojection")
HIGHER_IS_BETTER = {"psnr", "ssim", "lung_dice"}
TRUTH = "truth"  # the row of the true volume itself: only its re-projection says something


class Shared:
    """Keeps masks and DRRs of volumes that come again: one mean volume serves all cases, a shuffled one was a model's.

    Volumes are told apart by their content. The oldest results go when `limit` bytes are reached.
    """

    def __init__(self, limit: int = 2**28):
        self._kept: dict[tuple, Tensor] = {}
        self._limit = limit

    def get(self, compute: Callable[..., Tensor], volume: Float[Tensor, "d h w"], *geometry) -> Tensor:
        """`compute(volume, *geometry)`, from memory if it is there; `geometry` must be hashable."""
        digest = hashlib.sha1(volume.contiguous().numpy().data, usedforsecurity=False).digest()
        key = (compute.__name__, tuple(volume.shape), digest, *geometry)
        found = self._kept.get(key)
        if found is None:
            found = compute(volume, *geometry)
            while self._kept and (len(self._kept) + 1) * found.numel() * found.element_size() > self._limit:
                self._kept.pop(next(iter(self._kept)), None)  # another thread may have been first
            self._kept[key] = found
        return found


def score_case(
    case: dict, volumes: dict[str, Float[Tensor, "d h w"]], window: Window, shared: Shared | None = None
) -> list[dict]:
    """Rows `{"method", *METRICS}` of one case, NaN where a metric has no meaning, and one of the truth itself.

    Args:
        case: as `CaseDataset.case` gives it: `ct` in HU before windowing, `xray`, `pose`, `spacing`.
        volumes: HU by method, of the truth's size.
        window: what predictions and truth are clipped to; its width is the data range.
        shared: results to use again, handed from case to case.

    Raises:
        ValueError: a volume of another size than the truth, or one that holds NaN.
    """
    hu, spacing = case["ct"].float(), tuple(float(s) for s in case["spacing"])
    for name, volume in volumes.items():
        if volume.shape != hu.shape:
            raise ValueError(f"{name}: volume of {tuple(volume.shape)} voxels against a truth of {tuple(hu.shape)}")
        if not torch.isfinite(volume).all():
            raise ValueError(f"{name}: the volume holds NaN or infinite HU")
    shared = Shared() if shared is None else shared
    truth = hu.clamp(window.low, window.high)
    stack = torch.stack([v.float().clamp(window.low, window.high) for v in volumes.values()])
    body = metrics.body_mask(hu)
    columns = {
        "psnr": metrics.psnr(stack, truth, window.width),
        "ssim": metrics.ssim(stack, truth, window.width, low=window.low),
        "mae_hu": metrics.mae_hu(stack, truth),
        "mae_hu_body": metrics.mae_hu(stack, truth, body),
        "lung_dice": _lung_dice(stack, hu, spacing, window, shared),
        "reprojection": torch.tensor([_reprojection(v, case, spacing, window, shared) for v in stack]),
    }
    rows = [
        {"method": name} | {metric: float(values[i]) for metric, values in columns.items()}
        for i, name in enumerate(volumes)
    ]
    floor = dict.fromkeys(METRICS, float("nan")) | {
        "reprojection": _reprojection(truth, case, spacing, window, shared)
    }
    return [*rows, {"method": TRUTH} | floor]


def score_cases(
    cases, volumes: Callable[[int], dict[str, Tensor]], window: Window, patients, ids, workers: int | None = None
) -> pd.DataFrame:
    """Scores in long form: columns `id, patient, method` and `METRICS`, cases in order.

    `cases` is a `CaseDataset`, `volumes(i)` gives the volumes of case `i` by method.
    """
    threads, shared = torch.get_num_threads(), Shared()

    def score(index: int) -> list[dict]:
        rows = score_case(cases.case(index), volumes(index), window, shared)
        return [{"id": ids[index], "patient": patients[index]} | row for row in rows]

    # One case a thread: most of these operations are too small to be split well.
    with ThreadPoolExecutor(workers or threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = list(track(pool.map(score, range(len(ids))), description="scoring", total=len(ids)))
    torch.set_num_threads(threads)
    return pd.DataFrame([row for rows in done for row in rows])


def missing_reasons(scores: pd.DataFrame, window: Window) -> dict[str, str]:
    """Why a metric has no number at all, by its name."""
    reasons = {}
    measured = scores[scores.method != TRUTH]
    if measured.lung_dice.isna().all():
        reasons["lung_dice"] = f"outside window: [{window.low:g}, {window.high:g}] HU flattens the lungs"
    if measured.reprojection.isna().all():
        reasons["reprojection"] = (
            "the poses of the X-rays are unknown"
            if window.keeps_line_integrals
            else f"outside window: [{window.low:g}, {window.high:g}] HU cuts the lungs, line integrals mean nothing"
        )
    return reasons


def _lung_dice(stack: Tensor, hu: Tensor, spacing: tuple, window: Window, shared: Shared) -> Float[Tensor, " m"]:
    lungs = _lungs(hu, spacing)
    if lungs.any() and (hu[lungs] < window.low).float().mean() > 0.5:  # the window has flattened them
        return torch.full((len(stack),), float("nan"))
    return metrics.dice(torch.stack([shared.get(_lungs, volume, spacing) for volume in stack]), lungs)


def _lungs(hu: Tensor, spacing: tuple) -> Bool[Tensor, "d h w"]:
    return torch.as_tensor(np.asarray(segment_lungs(hu, spacing)), dtype=torch.bool)


def _reprojection(volume: Tensor, case: dict, spacing: tuple, window: Window, shared: Shared) -> float:
    """Mean over the views whose pose is known; NaN if there is none, or if the volume is empty air."""
    if not window.keeps_line_integrals:
        return float("nan")
    errors = []
    for xray, pose in zip(case["xray"].float(), case["pose"], strict=True):
        if torch.isnan(pose).any():
            continue
        drr = shared.get(_scaled_drr, volume, spacing, tuple(pose.tolist()), tuple(xray.shape))
        errors.append(float(metrics.reprojection_error(drr, xray)))
    return float(np.mean(errors)) if errors else float("nan")


def _scaled_drr(volume: Tensor, spacing: tuple, pose: tuple, size: tuple) -> Float[Tensor, "h w"]:
    # One sample a voxel along the beam: half the time, and 0.0001 away from twice as many.
    integrals = line_integrals(volume, spacing, torch.tensor(pose), size, samples=max(volume.shape))
    if float(integrals.amax() - integrals.amin()) < 1e-6:
        return torch.full_like(integrals, float("nan"))  # nothing attenuates: there is no picture to scale
    return scale_xray(integrals)
