"""A frozen benchmark: fixed X-rays, poses, splits and digests of the truths, which score anybody's volumes.

A folder with `protocol.json` and an X-ray of 16 bit for each patient and pose, `<patient>_<pose>.png`. The truths are
CT files elsewhere in the repository; `freeze` writes the folder once.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.files import ROOT, sha256, write_json
from dataset.imaging.coverage import at_least_air, fill, resample_scanned
from dataset.imaging.hu_window import Window
from dataset.imaging.volume import Volume
from dataset.io.ct import read_volume

PROTOCOLS = {"chests": ROOT / "benchmarks" / "chests" / "protocol"}
STAGES = ("selection", "held_out")  # patients on which ideas are chosen, and those scored once at the end
FULL = 65535  # grey level of 1 in the X-rays
SAME_HU = 0.5  # tolerance of the mean of a resampled truth


@dataclass(frozen=True)
class FrozenProtocol:
    """The content of one protocol folder.

    Attributes:
        folder: of `protocol.json` and the X-rays.
        content: `{"name", "data", "sizes", "window", "metrics", "selection", "held_out", "poses", "truths"}`; `poses`
            has the 9 numbers of a pose for each patient by name, `truths` file, SHA-256 and mean HU for each size.
    """

    folder: Path
    content: dict

    @property
    def name(self) -> str:
        return self.content["name"]

    @property
    def patients(self) -> list[str]:
        """Those of both stages, in the order of the folds."""
        return [name for stage in STAGES for name in self.content[stage]]

    @property
    def poses(self) -> list[str]:
        return list(self.content["poses"])

    @property
    def sizes(self) -> list[int]:
        """Voxels per side of the grids that volumes may have."""
        return [int(size) for size in self.content["sizes"]]

    @cached_property
    def window(self) -> Window:
        return Window.parse(self.content["window"])

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.content["metrics"])

    def stage(self, patient: str) -> str:
        """`selection` or `held_out`."""
        return next(stage for stage in STAGES if patient in self.content[stage])

    def stages(self, wanted: str) -> list[str]:
        """The patients of a stage, or of `all`; UserError for another word."""
        if wanted not in (*STAGES, "all"):
            raise UserError(f"stage={wanted}: choose {', '.join(STAGES)} or all")
        return self.patients if wanted == "all" else list(self.content[wanted])

    def truth(self, patient: str, size: int) -> dict:
        """`ct` (D, H, W) float32 HU, `scanned` (D, H, W) bool, `spacing` and `centre` (3,) of a cube of `size` voxels.

        Raises UserError if the file or its resampling differs from that of the protocol.
        """
        return _truth(self, patient, size)

    def case(self, patient: str, pose: str, size: int) -> dict:
        """The truth with `xray` (1, h, w) in [0, 1] and `pose` (1, 9)."""
        return {**self.truth(patient, size), "xray": self.xray(patient, pose)[None], "pose": self.pose(patient, pose)}

    def pose(self, patient: str, pose: str) -> Float[Tensor, "1 9"]:
        """Pose of an X-ray relative to the centre of its truth."""
        return torch.tensor(self.content["poses"][pose][patient])[None]

    def xray(self, patient: str, pose: str) -> Float[Tensor, "h w"]:
        """An X-ray in [0, 1]; UserError if its file is missing or has changed."""
        path, digest = self.folder / xray_name(patient, pose), self.content["xrays"][f"{patient}_{pose}"]
        if not path.is_file() or sha256(path) != digest:
            raise UserError(
                f"{path}: missing or not the X-ray of protocol {self.name}; restore it from the repository"
            )
        return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)) / FULL

    def __hash__(self) -> int:
        return hash(self.folder)

    def file(self, patient: str) -> Path:
        """The CT file of a patient."""
        return ROOT / self.content["data"] / self.content["truths"][patient]["file"]


@cache
def _truth(protocol: FrozenProtocol, patient: str, size: int) -> dict:
    path, expected = protocol.file(patient), protocol.content["truths"][patient]
    remedy = f"protocol {protocol.name} is frozen, restore the file from the repository"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {remedy}")
    if (found := sha256(path)) != expected["sha256"]:
        raise UserError(f"{path}: SHA-256 {found[:12]}…, not {expected['sha256'][:12]}…; {remedy}")
    case = truth_of(path, size)
    mean = float(case["ct"][case["scanned"]].mean())
    if abs(mean - expected["mean_hu"][str(size)]) > SAME_HU:
        raise UserError(
            f"{path}: mean {mean:.2f} HU at {size}³, not {expected['mean_hu'][str(size)]:.2f}; the resampling has "
            "changed, use the version of the code that the protocol was frozen with"
        )
    return case


def truth_of(path: Path, size: int) -> dict:
    """The truth of a CT file on a cube of `size` voxels over its whole extent, as in `FrozenProtocol.truth`."""
    volume = read_volume(path)
    volume.hu = at_least_air(volume.hu)
    small = resample_scanned(volume, (size, size, size))
    hu, scanned = fill(small.hu)
    return {
        "ct": torch.from_numpy(np.asarray(hu, dtype=np.float32)),
        "scanned": torch.from_numpy(scanned),
        "spacing": torch.tensor(small.spacing),
        "centre": torch.tensor(small.centre),
    }


def grid_of(case: dict) -> Volume:
    """The truth as a volume, with its place."""
    return Volume(case["ct"].numpy(), tuple(case["spacing"].tolist()), tuple(case["centre"].tolist()))


def xray_name(patient: str, pose: str) -> str:
    """File name of an X-ray."""
    return f"{patient}_{pose}.png"


def read_protocol(name: str | Path) -> FrozenProtocol:
    """A protocol by its name in `PROTOCOLS` or by its folder; UserError if there is none."""
    folder = PROTOCOLS.get(str(name), Path(name))
    path = folder / "protocol.json"
    if not path.is_file():
        raise UserError(f"protocol={name}: no {path}; choose {', '.join(PROTOCOLS)} or give the folder of a protocol")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); restore it from the repository") from error
    return FrozenProtocol(folder, content)


def freeze(folder: Path, content: dict, xrays: dict[str, Float[Tensor, "h w"]], files: dict[str, Path]) -> None:
    """Writes a protocol folder; UserError if it exists, because a frozen protocol never changes.

    Args:
        content: of `FrozenProtocol` without `xrays` and `truths`, which are computed here.
        xrays: in [0, 1], by `<patient>_<pose>`.
        files: CT file by patient.
    """
    if (folder / "protocol.json").exists():
        raise UserError(f"{folder}: frozen already; give another folder for another protocol")
    folder.mkdir(parents=True, exist_ok=True)
    digests, truths = {}, {}
    for name, image in xrays.items():
        path = folder / f"{name}.png"
        Image.fromarray((image.clamp(0.0, 1.0) * FULL).round().numpy().astype(np.uint16)).save(path)
        digests[name] = sha256(path)
    for patient, path in files.items():
        means = {}
        for size in content["sizes"]:
            case = truth_of(path, size)
            means[str(size)] = round(float(case["ct"][case["scanned"]].mean()), 3)
        truths[patient] = {"file": path.name, "sha256": sha256(path), "mean_hu": means}
    write_json(folder / "protocol.json", {**content, "xrays": digests, "truths": truths})
