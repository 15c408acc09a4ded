"""A picture of the left-out patients: X-ray, truth, model, ridge regression, training mean."""

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from common.checked_tensors import save_tensors
from dataset.io.nifti import SYNTHETIC
from evaluation.scoring.frozen_protocol import FrozenProtocol
from evaluation.visualization.slices import ACCENT, BACKGROUND, INK, font, tile, xray_tile

SHOWN = {"model": "model", "ridge": "ridge", "mean_volume": "training mean"}
PLANES = ("coronal", "axial")
GAP, HEAD, CAPTION, FOOT = 6, 24, 20, 26
CELL = 208


def save_volumes(path: Path, volumes: dict[str, Float[Tensor, "d h w"]]) -> None:
    """Volumes in HU by method, as int16."""
    save_tensors({name: of.round().to(torch.int16).contiguous() for name, of in volumes.items()}, path)


def patient_sheet(folder: Path, protocol: FrozenProtocol, size: int, ridge: dict[str, str]) -> Image.Image | None:
    """A row for each patient with volumes in `<folder>/<patient>/rows/*.safetensors`; None without any.

    `ridge` is the method shown as ridge regression, by patient.
    """
    rows, pose = [], protocol.poses[0]
    for patient in protocol.patients:
        volumes: dict[str, Tensor] = {}
        for file in sorted((folder / patient / "rows").glob("*.safetensors")):
            volumes |= load_file(file)
        volumes["ridge"] = volumes.get(ridge.get(patient))
        if volumes.get("model") is not None:
            rows.append((patient, protocol.case(patient, pose, size), volumes))
    if not rows:
        return None
    heads = ["X-ray", *(f"{name}, {plane}" for plane in PLANES for name in ("truth", *SHOWN.values()))]
    width, height = GAP + len(heads) * (CELL + GAP), HEAD + len(rows) * (CAPTION + CELL + GAP) + FOOT
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(heads):
        draw.text((GAP + column * (CELL + GAP) + CELL / 2, HEAD / 2), text, font=font(12), fill=INK, anchor="mm")
    for number, (patient, case, volumes) in enumerate(rows):
        top = HEAD + number * (CAPTION + CELL + GAP)
        title = f"{patient} ({protocol.stage(patient).replace('_', ' ')})"
        draw.text((GAP, top + CAPTION / 2), title, font=font(12), fill=INK, anchor="lm")
        for column, picture in enumerate(_tiles(case, volumes)):
            if picture is not None:
                left = GAP + column * (CELL + GAP) + (CELL - picture.width) // 2
                sheet.paste(picture, (left, top + CAPTION + (CELL - picture.height) // 2))
    foot = f"{SYNTHETIC} in the columns besides X-ray and truth. Grey: -1000 to 500 HU."
    draw.text((GAP, height - FOOT / 2), foot, font=font(12), fill=ACCENT, anchor="lm")
    return sheet


def _tiles(case: dict, volumes: dict[str, Tensor]) -> list[Image.Image | None]:
    spacing = tuple(case["spacing"].tolist())
    found: list[Image.Image | None] = [xray_tile(case["xray"][0], CELL)]
    for plane in PLANES:
        found.append(tile(case["ct"], plane, spacing, size=CELL))
        for name in SHOWN:
            volume = volumes.get(name)
            found.append(None if volume is None else tile(volume, plane, spacing, kind="generated", size=CELL))
    return found
