"""Cases: what is prepared once from a source, cached as one safetensors file each, and read as training samples."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.errors import UserError
from dataset.files import atomic_path
from dataset.geometry import make_pose
from dataset.intensity import AIR_HU, Window

CASE_VERSION = 1  # raise it when a case of the same file and settings would come out different
HIGHEST_HU = 3071.0

Case = dict[str, Tensor]
"""`ct` int16 (D, H, W) HU; `xray` float16 (V, h, w) in [0, 1]; `pose` float32 (V, 9), NaN = unknown;
`spacing` float32 (3,) mm; `centre` float32 (3,) RAS mm of the centre of the volume; of phantoms also
`labels` uint8 (D, H, W) and `label` int64 ()."""

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where cases come from. Construction touches no disk."""

    name: str
    rows: pd.DataFrame

    def missing(self) -> list[str]: ...
    def home(self) -> dict: ...
    def key(self, row) -> str: ...
    def build(self, row) -> Case: ...
    def describe(self) -> dict: ...


def positive(key: str, value, count: int, kind: type = int) -> tuple:
    """`count` positive numbers out of a config value.

    Raises:
        UserError: naming the key, if they are fewer, more or not positive.
    """
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    if len(values) != count or not all(isinstance(v, (int, float)) and kind(v) > 0 for v in values):
        shown = values if count > 1 else value
        raise UserError(f"{key}={shown}: give {count} positive number{'s' if count > 1 else ''}")
    return tuple(kind(v) for v in values)


def view_poses(extent: tuple[float, float, float], views: int) -> Float[Tensor, "v 9"]:
    """Poses spread evenly over 180 degrees, the first frontal (PA); two views are frontal and lateral."""
    return torch.stack([make_pose(extent, azimuth=180.0 * i / views) for i in range(views)])


def pack_case(hu, xray, pose, spacing, centre=(0.0, 0.0, 0.0), label: int | None = None, labels=None) -> Case:
    """A case from HU (D, H, W), X-rays (V, h, w) in [0, 1] and geometry, in the types it is stored in."""
    hu = torch.as_tensor(np.asarray(hu), dtype=torch.float32)
    case = {
        "ct": hu.clamp(AIR_HU, HIGHEST_HU).round().to(torch.int16),
        "xray": torch.as_tensor(xray).clamp(0.0, 1.0).to(torch.float16),
        "pose": torch.as_tensor(pose, dtype=torch.float32),
        "spacing": torch.tensor([float(s) for s in spacing], dtype=torch.float32),
        "centre": torch.tensor([float(c) for c in centre], dtype=torch.float32),
    }
    if label is not None:
        case["label"] = torch.tensor(int(label))
    if labels is not None:
        case["labels"] = torch.as_tensor(np.asarray(labels), dtype=torch.uint8)
    return {name: tensor.contiguous() for name, tensor in case.items()}


def case_key(settings: dict[str, Any]) -> str:
    """Hash of plain-JSON settings together with the version of the code that makes cases."""
    text = json.dumps({"case_version": CASE_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_folder(source: Source, cache_dir: str | Path) -> Path:
    """`<cache_dir>/<name>-<hash>`: holds the manifest and the cases of one population or one folder."""
    return Path(cache_dir) / f"{source.name}-{case_key(source.home())}"


def prepare_cases(source: Source, cache_dir: str | Path, workers: int | None = None) -> list[Path]:
    """Build what is not yet cached, in `workers` processes (0: in this one; default: one per core).

    Returns the case files in the order of `source.rows`. The name of a file holds the key of its case, so a changed
    volume or setting never meets a stale file. A damaged file is built again.

    Raises:
        UserError: for the first input that cannot be used, or a cache folder that cannot be written.
    """
    folder = source_folder(source, cache_dir) / "cases"
    records = source.rows.to_dict("records")
    paths = [folder / f"{row['id']}-{source.key(row)}.safetensors" for row in records]
    todo = [(row, path) for row, path in zip(records, paths, strict=True) if not _is_whole(path)]
    if not todo:
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"dataset.cache_dir={cache_dir}: cannot be written ({error}); choose another") from error
    workers = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(todo) // 2)
    # A DataLoader is the process pool: it hands its workers one thread each, which a pool of forks needs as well.
    loader = DataLoader(
        _Builder(source, todo), batch_size=None, num_workers=workers, generator=torch.Generator().manual_seed(0)
    )
    for error in track(loader, description=f"Preparing {source.name} cases", total=len(todo)):
        if error:
            raise UserError(error)
    return paths


class _Builder(Dataset):
    """Builds and writes case `i`; gives "" or the line that the user should see."""

    def __init__(self, source: Source, todo: list[tuple[dict, Path]]):
        self.source, self.todo = source, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> str:
        row, path = self.todo[index]
        try:
            case = self.source.build(row)
            with atomic_path(path) as temporary:
                save_file(case, temporary)
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{path}: cannot be written ({error}); free space or set dataset.cache_dir to another folder"
        return ""


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:  # checks the header against the length of the file
            return {"ct", "xray", "pose", "spacing", "centre"} <= set(file.keys())
    except SafetensorError as error:
        log.warning("%s is damaged (%s) and is built again", path, error)
        return False


def stored(path: str | Path, name: str) -> Tensor | None:
    """One tensor of a case without reading the others; None if the case has none of that name."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 (not a dict)


def read_case(path: str | Path) -> Case:
    """The whole case.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it, the next run builds it again") from error


class CaseDataset(Dataset):
    """Cases as training samples.

    An item is a dict: `ct` (1, D, H, W) float32 in [-1, 1]; `xray` (V, 1, h, w) float32 in [0, 1]; `pose` (V, 9);
    `spacing` (3,) mm; `label` 0, 1 or -1; `id`; `index`; `step` (-1 outside training).

    Args:
        paths: case files.
        rows: their rows of the manifest, in the same order.
        window: HU window of the model.
        crop: voxels `[d, h, w]` of a crop, or None for the whole volume. It is random where an item is asked for as
            `(index, step)`, by a generator seeded by `(seed, step, index)`, and the middle where only as `index`.
        seed: of the crops.

    Raises:
        UserError: at an item, if the crop is larger than the volume.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rows: pd.DataFrame,
        window: Window,
        crop: Sequence[int] | None = None,
        seed: int = 0,
    ):
        if len(paths) != len(rows):
            raise ValueError(f"{len(paths)} paths but {len(rows)} rows")
        self.paths, self.rows = list(paths), rows.reset_index(drop=True)
        self.window, self.seed = Window.parse(window), int(seed)
        self.crop = None if crop is None else tuple(int(n) for n in crop)

    def __len__(self) -> int:
        return len(self.paths)

    def case(self, index: int) -> Case:
        """Everything that is stored of one case: HU, X-rays, geometry, of phantoms the label map."""
        return read_case(self.paths[index])

    def condition(self, index: int) -> dict[str, Any]:
        """What goes with a volume, without the volume, which is not read: X-rays, pose, spacing, label, id."""
        row, path = self.rows.iloc[index], self.paths[index]
        return {
            "xray": stored(path, "xray").float()[:, None],
            "pose": stored(path, "pose"),
            "label": int(row["label"]),
            "id": str(row["id"]),
            "spacing": stored(path, "spacing"),
        }

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        index, step = item if isinstance(item, tuple) else (item, -1)
        case, row = self.case(index), self.rows.iloc[index]
        ct, pose = case["ct"], case["pose"]
        if self.crop is not None:
            ct, pose = self._cropped(ct, pose, case["spacing"], index, step)
        return {
            "ct": self.window.normalise(ct.float())[None],
            "xray": case["xray"].float()[:, None],
            "pose": pose,
            "label": int(row["label"]),
            "id": str(row["id"]),
            "spacing": case["spacing"],
            "index": int(index),
            "step": int(step),
        }

    def _cropped(self, ct: Tensor, pose: Tensor, spacing: Tensor, index: int, step: int) -> tuple[Tensor, Tensor]:
        room = [size - n for size, n in zip(ct.shape, self.crop, strict=True)]
        if min(room) < 0:
            raise UserError(f"crop {list(self.crop)} is larger than the volume {list(ct.shape)}; make it smaller")
        if step < 0:
            start = [free // 2 for free in room]
        else:
            start = np.random.default_rng((self.seed, step, index)).integers(0, np.array(room) + 1).tolist()
        window = tuple(slice(s, s + n) for s, n in zip(start, self.crop, strict=True))
        # Poses are relative to the centre of the volume, which the crop moves.
        moved = torch.tensor([s - free / 2.0 for s, free in zip(start, room, strict=True)]) * spacing
        pose = pose.clone()
        pose[:, 4:7] -= moved
        return ct[window], pose
