"""Checks of an X-ray before generation: its view as model input, and warnings."""

from dataclasses import dataclass
from pathlib import Path

from dataset.imaging.frontal_check import why_not_frontal
from dataset.io.xray import read_xray, read_xray_image, resize_xray, scale_xray_image
from evaluation.generation.xray_inputs import NO_LUNGS, GeneratorInput, aligned_views, read_inputs
from evaluation.visualization.slices import xray_tile

PICTURE_SIDE = 512  # pixels
MAX_DISTANCE = 1.2  # distance from the mean training X-ray, in units of the farthest training X-ray
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


def check_xray(
    xray: Path,
    pipeline,
    picture: Path,
    view: str | None = None,
    align: str | None = None,
    allow_any_picture: bool = False,
) -> CheckedXray:
    """Checks an X-ray and writes it to `picture` as the model sees it.

    UserError if it is unreadable or no frontal chest X-ray; with `allow_any_picture` the latter is a warning.
    """
    found, size = read_xray_image(xray, allow_any_picture), tuple(pipeline.protocol["xray_size"])
    warnings = [INVERTED] if any(note.startswith("inverted") for note in found.notes) else []
    if found.view == "lateral":
        xray_tile(read_xray(xray, size, lateral=True), PICTURE_SIDE).save(picture)
        return CheckedXray(picture, "lateral or oblique, as the file says", [LATERAL, *warnings])
    (shown,) = read_inputs([xray], pipeline, align, view, allow_any_picture)
    xray_tile(shown.picture, PICTURE_SIDE).save(picture)
    if allow_any_picture:
        plain = resize_xray(scale_xray_image(found), size).clamp(0.0, 1.0)
        warnings += filter(None, [why_not_frontal(plain)])
    assumed = [note for note in found.notes if note.startswith("no Patient Orientation")]
    return CheckedXray(picture, _orientation(shown, assumed), warnings + oddities(shown, pipeline), shown)


def oddities(shown: GeneratorInput, pipeline) -> list[str]:
    """Returns a line if the lungs were not found or the X-ray is far from those of training."""
    warnings, prior = [], pipeline.prior
    if shown.notes.get("alignment", {}).get("reason") == NO_LUNGS:
        warnings.append("no lungs found: the X-ray is not aligned")
    if prior is not None:
        aligned, _ = aligned_views(shown, pipeline.pose_regressor)  # as the prior was fitted
        far = float(prior.distance(aligned[None, :, None].to(pipeline.device)))
        if far > MAX_DISTANCE:
            warnings.append(
                f"unlike the training X-rays: {far:.1f} times as far from their mean as the farthest of them; the "
                "volume will show more of the training data than of this patient"
            )
    return warnings


def _orientation(shown: GeneratorInput, assumed: list[str]) -> str:
    notes, aligned = shown.notes, shown.notes.get("alignment", {}).get("align") == "lungs"
    parts = [f"{notes.get('view', 'PA')}, {notes.get('view_source', 'assumed')}"]
    parts.append("aligned to the lungs" if aligned else "not aligned")
    return "; ".join([*parts, "head up, the patient's right on the left", *assumed])
