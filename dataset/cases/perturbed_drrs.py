"""DRRs of training CTs at random poses, with their poses: training data of the pose regressor."""

from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.checked_tensors import DamagedFile, open_checked, save_checked
from common.errors import UserError, worker_killed
from dataset.cases.case import case_key
from dataset.cases.case_dataset import CaseDataset
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import fill_unknown, unknown_pose
from dataset.imaging.volume import Volume
from dataset.xray.pose_perturbation import describe, perturbed_poses

MAX_CASES = 2000  # evenly chosen; limits the rendering time to minutes
VERSION = 1  # of the file format
STREAM = 3  # separates these random numbers from those of `dataset.pose_noise`


@dataclass(frozen=True)
class PosedDrrs:
    """DRRs with their geometry.

    Attributes:
        cases: indices of their cases.
        xray: in [0, 1].
        nominal: poses assumed for X-rays of unknown pose (`dataset.imaging.geometry.fill_unknown`).
        drawn: poses of these DRRs, drawn around the nominal ones (`dataset.xray.pose_perturbation`).
    """

    cases: list[int]
    xray: Float[Tensor, "n v 1 p p"]
    nominal: Float[Tensor, "n v 9"]
    drawn: Float[Tensor, "n v 9"]


def posed_drrs(data: CaseDataset, drr: DrrSettings, home: Path, pixels: int, workers: int | None = None) -> PosedDrrs:
    """A DRR of each view of at most `MAX_CASES` cases, rendered once and cached in `home`.

    Args:
        drr: DRR settings of the data set.
        pixels: side of the square DRRs.
        workers: processes that render; by default one per core.

    Raises:
        UserError: a folder that cannot be written, or a process that was killed.
    """
    cases = torch.linspace(0, len(data) - 1, min(MAX_CASES, len(data))).round().long().tolist()
    renderer = _Renderer(data, cases, drr, pixels)
    made = {"posed": VERSION, "cases": [data.paths[i].stem for i in cases], "pixels": pixels, "extent": data.extent}
    key = case_key({**made, "drr": drr.describe(), "noise": describe(), "seed": data.seed})
    file = home / f"posed-{key}.safetensors"
    try:
        with FileLock(f"{file}.lock"):  # one process renders, others wait
            held = _read(file) or _render(renderer, file, workers)
    except OSError as error:
        raise UserError(f"{home}: cannot be written ({error}); set dataset.cache_dir to another folder") from error
    except RuntimeError as error:
        if not worker_killed(error):
            raise
        raise UserError(
            "a process that rendered DRRs was killed, most likely for lack of memory: set "
            "dataset.prepare_workers lower"
        ) from error
    return PosedDrrs(cases, held["xray"].float()[:, :, None] / 255.0, held["nominal"], held["drawn"])


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        with open_checked(file) as content:
            return {name: content.get_tensor(name) for name in ("xray", "nominal", "drawn")}
    except DamagedFile:  # or missing
        return None


def _render(renderer: "_Renderer", file: Path, workers: int | None) -> dict[str, Tensor]:
    workers = min(torch.get_num_threads() if workers is None else workers, len(renderer) // 2)
    loader = DataLoader(renderer, None, num_workers=workers, generator=torch.Generator().manual_seed(0))
    xrays, nominal, drawn = zip(*track(loader, "Rendering DRRs at random poses", total=len(renderer)), strict=True)
    held = {"xray": torch.stack(xrays), "nominal": torch.stack(nominal), "drawn": torch.stack(drawn)}
    save_checked(held, file)
    return held


class _Renderer(Dataset):
    """`(xray, nominal, drawn)` of chosen cases, X-rays with 8 bits."""

    def __init__(self, data: CaseDataset, cases: list[int], drr: DrrSettings, pixels: int):
        self.data, self.cases, self.drr, self.pixels = data, cases, drr, pixels

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        index = self.cases[position]
        case = self.data.case(index)
        volume, poses = Volume(case["ct"].float().numpy(), tuple(case["spacing"].tolist())), case["pose"]
        if not poses.isnan().any():  # keep the view alone, as of a radiograph
            poses = torch.where(torch.arange(9) == 2, poses, unknown_pose(len(poses)))
        nominal = fill_unknown(poses, self.data.extent or volume.extent)
        drawn = perturbed_poses(nominal, (self.data.seed, index, STREAM))
        xray = self.drr.render(volume, drawn, (self.pixels, self.pixels))
        return (xray * 255.0).round().to(torch.uint8), nominal, drawn
