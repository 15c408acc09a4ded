"""A generated volume beside the patient's own CT: the CT on the model's grid, and how far the two are apart."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.resample import resample
from dataset.volume_io import read_volume, write_nifti
from evaluation.inputs import Shown
from evaluation.scoring import metric, score_case

NAMES = ("psnr", "ssim", "mae_hu", "mae_hu_body", "mae_hu_lungs", "lung_dice")
HOW = "the CT brought to the model's grid as in training: whole, its size in mm taken for the nominal one"
HOW_SPACING = "the CT brought to the model's grid as in training: around its centre, at the model's spacing"


def compare(
    truth: Path, mean: Float[Tensor, "d h w"], spacing, shown: Shown, pipeline, target: Path
) -> dict[str, dict]:
    """Writes the CT as `target` on the grid of the generated volume; `{metric: {"label", "unit", "value", "digits"}}`.

    A value is None where the metric has no meaning. `how` says how the CT was brought to the grid.

    Raises:
        UserError: no CT.
    """
    protocol = pipeline.protocol
    by_spacing = protocol.get("resampling") == "spacing"
    volume = resample(read_volume(truth), pipeline.volume_size, tuple(protocol["spacing"]) if by_spacing else None)
    write_nifti(target, volume.hu, spacing, shown.centre, "uploaded CT on the grid of the generated volume")
    case = {
        "ct": torch.from_numpy(volume.hu),
        "spacing": torch.tensor(volume.spacing),
        "xray": torch.zeros(0, 1, 1),
        "pose": torch.zeros(0, 9),
    }
    row = score_case(case, {"model": mean}, pipeline.window, metrics=NAMES)[0]
    found: dict[str, dict] = {"how": {"label": HOW_SPACING if by_spacing else HOW, "unit": "", "value": None}}
    for name in NAMES:
        entry, value = metric(name), row[name]
        value = round(float(value), entry.digits) if value == value else None
        found[name] = {"label": entry.label, "unit": entry.unit, "value": value, "digits": entry.digits}
    return found
