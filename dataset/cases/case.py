"""The tensors of a prepared case, and the key that names it in the cache.

`ct` int16 (D, H, W) HU, `dataset.imaging.coverage.NOT_SCANNED_HU` where the scan ends;
`xray` float16 (V, h, w) in [0, 1], NaN = unknown; `pose` float32 (V, 9), NaN = unknown; `spacing` float32
(3,) mm; `centre` float32 (3,) RAS mm of the volume centre; `lung_box` float32 (6,) (`dataset.imaging.lung_box`); of
phantoms also `labels` uint8 (D, H, W) and `label` int64 (); of CTs whose X-ray is a DRR also `iodine_ml` float32 ().
"""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.imaging.coverage import NOT_SCANNED_HU, fill
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_box import lung_box_in_volume

CASE_VERSION = 4  # raise it when the same file and settings give another case
HIGHEST_HU = 3071.0
LARGE = {"ct", "xray", "labels"}
NEEDED = {"ct", "xray", "pose", "spacing", "centre", "lung_box"}

Case = dict[str, Tensor]


def pack_case(
    hu, xray, pose, spacing, centre=(0.0, 0.0, 0.0), label: int | None = None, labels=None, iodine_ml=None
) -> Case:
    """A case from HU (D, H, W), X-rays (V, h, w) in [0, 1] and geometry, in the types of storage; marks in HU stay."""
    hu = torch.as_tensor(np.asarray(hu), dtype=torch.float32)
    clipped = hu.clamp(AIR_HU, HIGHEST_HU).round()
    case = {
        "ct": torch.where(hu == NOT_SCANNED_HU, hu, clipped).to(torch.int16),
        "xray": torch.as_tensor(xray).clamp(0.0, 1.0).to(torch.float16),
        "pose": torch.as_tensor(pose, dtype=torch.float32),
        "spacing": torch.tensor([float(s) for s in spacing], dtype=torch.float32),
        "centre": torch.tensor([float(c) for c in centre], dtype=torch.float32),
        "lung_box": lung_box_in_volume(fill(hu.numpy())[0], tuple(float(s) for s in spacing)),
    }
    optional = {
        "iodine_ml": (iodine_ml, torch.float32),
        "label": (label, torch.int64),
        "labels": (labels, torch.uint8),
    }
    case |= {name: torch.as_tensor(value, dtype=kind) for name, (value, kind) in optional.items() if value is not None}
    return {name: tensor.contiguous() for name, tensor in case.items()}


def case_key(settings: dict[str, Any]) -> str:
    """Hash of plain-JSON settings and of the version of the code that makes cases."""
    text = json.dumps({"case_version": CASE_VERSION, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
