"""X-rays of small phantoms for the test of input shift; not a test file."""

import torch

from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.phantom.render import render_phantom

EXTENT = (320.0, 256.0, 352.0)


def phantom_xrays(first: int, count: int, attenuation: str = "bilinear") -> list[torch.Tensor]:
    """Frontal X-rays `(1, 64, 64)` of phantoms by index."""
    poses = DrrSettings().poses(EXTENT)
    found = []
    for index in range(first, first + count):
        phantom = render_phantom(index, 5, (24, 24, 24), EXTENT)
        hu = torch.from_numpy(phantom.hu_plain).float()
        found.append(render_xray(hu, phantom.spacing, poses, (64, 64), attenuation=attenuation))
    return found
