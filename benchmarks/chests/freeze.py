"""Freezes the protocol of the chest benchmark: X-rays, poses, splits and digests of the truths; run once.

`python benchmarks/chests/freeze.py`
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from jaxtyping import Float  # noqa: E402
from torch import Tensor  # noqa: E402

from dataset.imaging.coverage import at_least_air, fill  # noqa: E402
from dataset.imaging.drr_options import DrrSettings  # noqa: E402
from dataset.io.ct import read_volume  # noqa: E402
from evaluation.scoring.frozen_protocol import PROTOCOLS, freeze  # noqa: E402

SELECTION = ("4d-lung-113", "lidc-idri-0314", "nsclc-radiogenomics-r01-001", "lung-pet-ct-dx-a0002")
HELD_OUT = ("rider-lung-ct", "lidc-idri-0001", "cip-ct64")
XRAY_SIZE = (128, 128)
SIZES = (64, 128)
METRICS = ("psnr", "psnr_body", "ssim", "ssim_body", "mae_hu", "mae_hu_body", "lung_dice", "crps", "crps_body")
POSES = {  # changes of the nominal frontal pose: degrees of rotation and tilt, mm upward, backward and to the left
    "pa": {},
    "rotated": {"azimuth": 4.0},
    "turned": {"azimuth": -3.0, "elevation": 1.0},
    "tilted": {"elevation": 4.0},
    "shifted": {"azimuth": 1.0, "centre_d": 10.0, "centre_w": -12.0},
}
FIELDS = {"azimuth": 2, "elevation": 3, "centre_d": 4, "centre_h": 5, "centre_w": 6}


def changed_pose(nominal: Float[Tensor, "9"], change: dict[str, float]) -> Float[Tensor, "9"]:
    """The pose with the numbers of `change` added; the detector keeps its place and size."""
    pose = nominal.clone()
    for name, value in change.items():
        pose[FIELDS[name]] += value
    return pose


def main() -> None:
    """Renders the X-rays and writes the protocol."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="assets/chests", help="folder of the CTs, relative to the repository")
    parser.add_argument("--output", type=Path, default=PROTOCOLS["chests"])
    options = parser.parse_args()
    drr, xrays, poses = DrrSettings(), {}, {name: {} for name in POSES}
    files = {patient: ROOT / options.data / f"{patient}.nii.gz" for patient in (*SELECTION, *HELD_OUT)}
    for patient, path in files.items():
        volume = read_volume(path)
        volume.hu = fill(at_least_air(volume.hu))[0]
        nominal = drr.poses(volume.extent)[0]
        chosen = torch.stack([changed_pose(nominal, change) for change in POSES.values()])
        for name, pose, image in zip(POSES, chosen, drr.render(volume, chosen, XRAY_SIZE), strict=True):
            xrays[f"{patient}_{name}"], poses[name][patient] = image, [round(float(v), 4) for v in pose]
        print(patient, flush=True)
    content = {
        "name": "chests",
        "version": 1,
        "data": options.data,
        "sizes": list(SIZES),
        "window": "wide",
        "metrics": list(METRICS),
        "selection": list(SELECTION),
        "held_out": list(HELD_OUT),
        "changes": POSES,
        "drr": drr.describe(),
        "poses": poses,
    }
    freeze(options.output, content, xrays, files)
    print(options.output / "protocol.json")


if __name__ == "__main__":
    main()
