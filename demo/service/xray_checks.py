"""Checks of an X-ray before generation: its view as model input, and warnings."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dataset.io.xray import read_xray, read_xray_image, resize_xray, scale_xray_image
from dataset.xray.lung_alignment import lung_map
from evaluation.generation.xray_inputs import GeneratorInput, aligned_views, read_inputs
from evaluation.visualization.slices import xray_tile

PICTURE_SIDE = 512  # pixels
# Correlation with the mean training X-ray of the phantom weights after alignment: at least 0.59 in 12 real frontal
# films and 10 DRRs, at most 0.38 in eight photographs and textures.
MIN_LIKENESS = 0.5
# Correlation of an image with its mirror image: 0.83 to 0.99 in those films, below 0.82 in half of the laterals.
MIN_SYMMETRY = 0.8
LIKENESS_GAIN = 0.08  # gain in likeness above which a warning proposes inversion or rotation
MAX_DISTANCE = 1.2  # distance from the mean training X-ray, in units of the farthest training X-ray
COARSE = 32  # pixels a side, for symmetry
TURNS = {"inverted": (0, True), "turned by 90°": (1, False), "upside down": (2, False), "turned by 270°": (3, False)}
LATERAL = "the file says that it is a lateral or oblique view: give a frontal chest X-ray"
INVERTED = "the file is inverted (dark bone): converted to bright bone"


@dataclass(frozen=True)
class CheckedXray:
    """An X-ray as the model sees it.

    Attributes:
        picture: PNG with side marks, kept as long as a result.
        orientation: one line: view, source of the view, alignment.
        warnings: one line each; empty for a frontal X-ray like the training X-rays.
        shown: the input of the generator; None for a lateral view.
    """

    picture: Path
    orientation: str
    warnings: list[str]
    shown: GeneratorInput | None = None


def check_xray(xray: Path, pipeline, picture: Path, view: str | None = None, align: str | None = None) -> CheckedXray:
    """Checks an X-ray and writes it to `picture` as the model sees it; UserError if it is unreadable."""
    found, size = read_xray_image(xray), tuple(pipeline.protocol["xray_size"])
    warnings = [INVERTED] if any(note.startswith("inverted") for note in found.notes) else []
    if found.view == "lateral":
        xray_tile(read_xray(xray, size, lateral=True), PICTURE_SIDE).save(picture)
        return CheckedXray(picture, "lateral or oblique, as the file says", [LATERAL, *warnings])
    (shown,) = read_inputs([xray], pipeline, align, view)
    xray_tile(shown.picture, PICTURE_SIDE).save(picture)
    plain = resize_xray(scale_xray_image(found), size).clamp(0.0, 1.0)
    assumed = [note for note in found.notes if note.startswith("no Patient Orientation")]
    return CheckedXray(picture, _orientation(shown, assumed), warnings + oddities(plain, shown, pipeline), shown)


def oddities(plain: Float[Tensor, "h w"], shown: GeneratorInput, pipeline) -> list[str]:
    """Returns a line for each difference of `plain`, [0, 1], not aligned, from frontal and from training X-rays."""
    warnings, prior = [], pipeline.prior
    box = pipeline.protocol.get("lung_box")
    aligned, lungs = _aligned(plain, box, pipeline.extent)
    if prior is not None:
        own = _best(plain, box, pipeline)
        turned = {
            name: _best((1.0 - plain if inverted else plain).rot90(quarters), box, pipeline)
            for name, (quarters, inverted) in TURNS.items()
        }
        name = max(turned, key=turned.get)
        if turned[name] > max(own + LIKENESS_GAIN, MIN_LIKENESS):
            warnings.append(f"it looks {name}: give it with bright bone, head up, the patient's right on the left")
        if not warnings and own < MIN_LIKENESS:
            warnings.append(
                "it does not look like a frontal chest X-ray (correlation with the mean training X-ray "
                f"{own:.2f}, of a frontal film above {MIN_LIKENESS:g})"
            )
    if box is not None and not lungs:
        warnings.append("no lungs found: the X-ray is not aligned")
    elif not warnings and _symmetry(aligned) < MIN_SYMMETRY:
        warnings.append("it looks like a lateral, oblique or strongly rotated view: give a frontal chest X-ray")
    if prior is not None:
        aligned, _ = aligned_views(shown, pipeline.pose_regressor)  # as the prior was fitted
        far = float(prior.distance(aligned[None, :, None].to(pipeline.device)))
        if far > MAX_DISTANCE:
            warnings.append(
                f"unlike the training X-rays: {far:.1f} times as far from their mean as the farthest of them; the "
                "volume will show more of the training data than of this patient"
            )
    return warnings


def _aligned(plain: Tensor, box, extent) -> tuple[Float[Tensor, "h w"], bool]:
    """The X-ray aligned to its lungs, and whether lungs were found."""
    found = None if box is None else lung_map(plain, box, extent)
    return (plain, False) if found is None else (found.apply(plain), True)


def _best(plain: Tensor, box, pipeline) -> float:
    """Larger likeness to the mean training X-ray, with and without alignment."""
    prior = pipeline.prior
    images = (plain, _aligned(plain, box, pipeline.extent)[0])
    views = (image.expand(1, prior.config.views, 1, *image.shape) for image in images)
    return max(float(prior.likeness(view.to(prior.mean.device))) for view in views)


def _symmetry(image: Tensor) -> float:
    small = F.adaptive_avg_pool2d(image[None, None], COARSE)[0, 0]
    return float(torch.corrcoef(torch.stack([small, small.flip(1)]).flatten(1))[0, 1].nan_to_num())


def _orientation(shown: GeneratorInput, assumed: list[str]) -> str:
    notes, aligned = shown.notes, shown.notes.get("alignment", {}).get("align") == "lungs"
    parts = [f"{notes.get('view', 'PA')}, {notes.get('view_source', 'assumed')}"]
    parts.append("aligned to the lungs" if aligned else "not aligned")
    return "; ".join([*parts, "head up, the patient's right on the left", *assumed])
