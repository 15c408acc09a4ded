"""Scores of every method on every case, in HU, against the truth clipped to the same window."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from common.errors import UserError
from dataset.imaging.hu_window import Window
from evaluation.metrics.base import CaseView
from evaluation.metrics.catalogue import catalogue, measure

TRUTH = "truth"  # the row of the true volume, with the scores of a perfect prediction
FIDELITY = (
    "mae_hu_body",
    "mae_hu_lungs",
    "psnr",
    "ssim",
    "lung_dice_labels",
    "heart_dice_labels",
    "vessel_contrast",
    "gradient_spectrum",
    "noise_power_spectrum",
    "reprojection",
    "crps",
    "crps_body",
    "energy_score",
    "spread_hu_body",
    "spread_latent_hu_body",
    "spread_over_error",
    "covered_90",
)
SETS = ("default", "fidelity", "all")


def metric_names(wanted: str | Sequence[str] = "default") -> tuple[str, ...]:
    """Names of metrics from a set (`default`, `fidelity`, `all`) or a list of names; UserError for an unknown one."""
    known = catalogue()
    if isinstance(wanted, str):
        if wanted not in SETS:
            raise UserError(f"metrics={wanted}: choose {', '.join(SETS)} or a list of {', '.join(known)}")
        chosen = {"default": [n for n, m in known.items() if m.default], "fidelity": FIDELITY, "all": known}
        return tuple(chosen[wanted])
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise UserError(f"metrics={list(wanted)}: no metric {unknown}; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(wanted))


class Shared:
    """Cache of masks and DRRs by the content of volumes, up to `limit` bytes; baselines repeat volumes."""

    def __init__(self, limit: int = 2**28):
        self._kept: dict[tuple, Tensor] = {}
        self._limit = limit

    def get(self, compute: Callable[..., Tensor], volume: Float[Tensor, "d h w"], *geometry) -> Tensor:
        """`compute(volume, *geometry)`, from the cache if possible; `geometry` must be hashable."""
        digest = hashlib.sha1(volume.contiguous().cpu().numpy().data, usedforsecurity=False).digest()
        key = (compute.__name__, tuple(volume.shape), digest, *geometry)
        found = self._kept.get(key)
        if found is None:
            found = compute(volume, *geometry)
            while self._kept and (len(self._kept) + 1) * found.numel() * found.element_size() > self._limit:
                self._kept.pop(next(iter(self._kept)), None)  # another thread may have removed it
            self._kept[key] = found
        return found


def score_case(
    case: dict,
    volumes: dict[str, Float[Tensor, "d h w"]],
    window: Window,
    shared: Shared | None = None,
    metrics: str | Sequence[str] = "default",
    reasons: Counter | None = None,
    tools: dict | None = None,
) -> list[dict]:
    """Rows `{"method", metric: value}` of one case and of its truth; NaN for a metric that is not defined for it.

    Raises ValueError for a volume that differs from the truth in size, holds NaN or cannot be HU.

    Args:
        case: of `CaseDataset.case`: `ct` in HU before windowing, `xray`, `pose`, `spacing`.
        volumes: HU by method.
        window: clips predictions and truth; its width is the data range.
        shared: cache over cases.
        metrics: a set or names.
        reasons: counts `(metric, reason)` of metrics that could not be measured.
        tools: of `CaseView`.
    """
    _check(case, volumes)
    names = metric_names(metrics)
    shared = Shared() if shared is None else shared
    view = CaseView(case, torch.stack(list(volumes.values())), window, shared, volumes, tools)
    columns, missing = measure(names, view)
    if reasons is not None:
        reasons.update(missing.items())
    rows = [
        {"method": name} | {key: float(values[i]) for key, values in columns.items()} for i, name in enumerate(volumes)
    ]
    floors = [name for name in names if catalogue()[name].floor]
    truth = dict.fromkeys(names, float("nan"))
    if floors:
        own, _ = measure(floors, CaseView(case, view.truth[None], window, shared, tools=tools))
        truth |= {name: float(values[0]) for name, values in own.items()}
    return [*rows, {"method": TRUTH} | truth]


def score_cases(
    cases,
    volumes: Callable[[int], dict[str, Tensor]],
    window: Window,
    patients,
    ids,
    workers: int | None = None,
    metrics: str | Sequence[str] = "default",
    tools: dict | None = None,
    registration: Callable[[Tensor, Tensor, tuple], Tensor] | None = None,
) -> pd.DataFrame:
    """Scores in long form: columns `id, patient, method` and the metrics, cases in order.

    `attrs["not_measured"]` of the frame holds the reason for each metric without any value. Raises UserError for a
    repeated id.

    Args:
        cases: `CaseDataset`.
        volumes: volumes of case `i` by method.
        workers: threads; None = those of torch.
        registration: `(prediction, truth, spacing)` to the aligned prediction that is scored.
    """
    for name, count in Counter(ids).most_common(1):
        if count > 1:
            raise UserError(f"cases: {count} cases have the id {name}; give each case its own")
    threads, shared, reasons = torch.get_num_threads(), Shared(), Counter()

    def rows_of(index: int) -> tuple[list[dict], Counter]:
        own: Counter = Counter()
        case, predictions = cases.case(index), volumes(index)
        if registration is not None:
            truth, spacing = case["ct"].float(), tuple(case["spacing"].tolist())
            predictions = {name: registration(volume, truth, spacing) for name, volume in predictions.items()}
        rows = score_case(case, predictions, window, shared, metrics, own, tools)
        return [{"id": ids[index], "patient": patients[index]} | row for row in rows], own

    # one case per thread: the operations are too small for several threads each
    with ThreadPoolExecutor(workers or threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        done = list(track(pool.map(rows_of, range(len(ids))), description="scoring", total=len(ids)))
    torch.set_num_threads(threads)
    for _, own in done:
        reasons.update(own)
    scores = pd.DataFrame([row for rows, _ in done for row in rows])
    measured = scores[scores.method != TRUTH]
    empty = [name for name in metric_names(metrics) if measured[name].isna().all()]
    common = {name: reason for (name, reason), _ in reversed(reasons.most_common())}  # the most frequent one last
    scores.attrs["not_measured"] = {name: common.get(name, "nothing to measure in any volume") for name in empty}
    return scores


def _check(case: dict, volumes: dict[str, Tensor]) -> None:
    size = tuple(case["ct"].shape)
    low, high = float(case["ct"].min()), float(case["ct"].max())
    for name, volume in volumes.items():
        if tuple(volume.shape) != size:
            raise ValueError(f"{name}: volume of {tuple(volume.shape)} voxels against a truth of {size}")
        if not torch.isfinite(volume).all():
            raise ValueError(f"{name}: the volume holds NaN or infinite HU")
        least, most = float(volume.min()), float(volume.max())
        # every chest has air: a volume from 0, or over at most two units, is scaled
        scaled = least < most <= 255.0 and (least >= 0.0 or most - least <= 2.0)
        if scaled and low < -500.0 and high - low > 500.0:
            raise ValueError(
                f"{name}: values from {least:g} to {most:g} against a truth of {low:g} to {high:g} HU; "
                "give the prediction in HU"
            )
