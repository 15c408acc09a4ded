"""DRRs of training CTs at random poses, with their poses: training data of the pose regressor."""

from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from common.checked_tensors import DamagedFile, open_checked, save_checked
from common.errors import UserError
from dataset.cases.case import case_key
from dataset.cases.case_dataset import CaseDataset
from dataset.cases.store import in_processes
from dataset.imaging.drr_options import DrrSettings
from dataset.imaging.geometry import fill_unknown, unknown_pose
from dataset.imaging.volume import Volume
from dataset.xray.pose_perturbation import PROTOCOL, perturbed_poses

MAX_CASES = 2000  # evenly chosen; limits the rendering time to minutes
VERSION = 1  # of the file format
NAMES = ("xray", "nominal", "drawn")  # its tensors
STREAM = 3  # separates these random numbers from those of `dataset.pose_noise`


@dataclass(frozen=True)
class PosedDrrs:
    """DRRs with their geometry."""

    cases: list[int]  # indices of their cases
    xray: Float[Tensor, "n v 1 p p"]  # in [0, 1]
    nominal: Float[Tensor, "n v 9"]  # poses assumed for X-rays of unknown pose (`geometry.fill_unknown`)
    drawn: Float[Tensor, "n v 9"]  # poses of these DRRs, around the nominal ones (`dataset.xray.pose_perturbation`)


def posed_drrs(data: CaseDataset, drr: DrrSettings, home: Path, pixels: int, workers: int | None = None) -> PosedDrrs:
    """A DRR of `pixels` x `pixels` of each view of at most `MAX_CASES` cases, rendered once and cached in `home`.

    `workers` as in `dataset.cases.store.in_processes`. UserError for a folder that cannot be written.
    """
    cases = torch.linspace(0, len(data) - 1, min(MAX_CASES, len(data))).round().long().tolist()
    made = {"posed": VERSION, "cases": [data.paths[i].stem for i in cases], "pixels": pixels, "extent": data.extent}
    key = case_key({**made, "drr": drr.describe(), "noise": PROTOCOL, "seed": data.seed})
    file = home / f"posed-{key}.safetensors"
    try:
        with FileLock(f"{file}.lock"):  # one process renders, others wait
            try:
                with open_checked(file) as content:
                    tensors = [content.get_tensor(name) for name in NAMES]
            except DamagedFile:  # or missing
                drrs = in_processes(_Renderer(data, cases, drr, pixels), workers, "Rendering DRRs at random poses")
                tensors = [torch.stack(column) for column in zip(*drrs, strict=True)]
                save_checked(dict(zip(NAMES, tensors, strict=True)), file)
    except OSError as error:
        raise UserError(f"{home}: cannot be written ({error}); set dataset.cache_dir to another folder") from error
    xray, nominal, drawn = tensors
    return PosedDrrs(cases, xray.float()[:, :, None] / 255.0, nominal, drawn)


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
        words = (self.data.seed, index, STREAM)
        drawn = perturbed_poses(nominal, words)
        xray = self.drr.render(volume, drawn, (self.pixels, self.pixels), words)
        return (xray * 255.0).round().to(torch.uint8), nominal, drawn
