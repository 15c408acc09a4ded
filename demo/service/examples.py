"""Sample X-rays of phantoms outside the training split, rendered on request."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image

from common.files import atomic_path
from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.io.nifti import write_nifti
from dataset.phantom.render import render_phantom
from dataset.sources.phantom import FIRST_INDEX

SIZE, EXTENT, XRAY_SIZE = (128, 128, 128), (320.0, 256.0, 352.0), (256, 256)
NUMBERS = {"Tall": 907, "Average": 903, "Effusion": 905}  # in the test split, after the cases of reported figures
SAMPLES = tuple(NUMBERS)
ALIGN = "none"  # their pose is that of the training X-rays

_drawing = Lock()


@dataclass(frozen=True)
class Sample:
    """A phantom's X-ray (PNG) and its true CT (NIfTI); the X-ray is rendered from the CT without contrast."""

    xray: Path
    truth: Path


def draw_sample(name: str, folder: Path) -> Sample:
    """Returns the sample `name`; renders it into `folder` if missing. KeyError for an unknown name."""
    number, stem = FIRST_INDEX["test"] + NUMBERS[name], f"phantom_{name.lower()}"
    sample = Sample(folder / f"{stem}.png", folder / f"{stem}.nii.gz")
    with _drawing:
        if sample.xray.is_file() and sample.truth.is_file():
            return sample
        phantom, pose = render_phantom(number, size=SIZE, extent=EXTENT), DrrSettings().poses(EXTENT)
        xray = render_xray(torch.as_tensor(phantom.hu_plain, dtype=torch.float32), phantom.spacing, pose, XRAY_SIZE)[0]
        write_nifti(sample.truth, phantom.hu, phantom.spacing, description="phantom, a drawing of a chest")
        grey = np.rint(np.asarray(xray).clip(0.0, 1.0) * 65535).astype(np.uint16)
        with atomic_path(sample.xray) as temporary:
            Image.fromarray(grey).save(temporary, format="PNG")
    return sample
