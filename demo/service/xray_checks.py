"""Checks of an X-ray before generation: its view as model input, and warnings."""

from dataclasses import dataclass
from pathlib import Path

from dataset.io.file_kind import kind_of
from dataset.io.xray import read_xray, read_xray_image, scale_xray_image
from demo.service.messages import PNG_LEVEL
from evaluation.generation.xray_inputs import GeneratorInput, read_inputs
from evaluation.visualization.slices import xray_tile

PICTURE_SIDE = 512  # pixels
AS_DISPLAYED = "taken as displayed"  # end of the notes of a reader that found no valid orientation
LATERAL = "the file says that it is a lateral or oblique view: give a frontal chest X-ray"


@dataclass(frozen=True)
class CheckedXray:
    """An X-ray as the model sees it.

    Attributes:
        picture: PNG with side marks, kept as long as a result.
        orientation: one line: view, source of the view, alignment.
        warnings: one line each; empty for a frontal X-ray like the training X-rays.
        shown: the input of the generator; None for a lateral view.
        given: PNG of the film as given, with side marks; None for a lateral view.
        lateral: PNG of the second view as the model sees it; None for one view.
    """

    picture: Path
    orientation: str
    warnings: list[str]
    shown: GeneratorInput | None = None
    given: Path | None = None
    lateral: Path | None = None


def check_xray(
    xray: Path,
    pipeline,
    picture: Path,
    view: str | None = None,
    align: str | None = None,
    allow_any_picture: bool = False,
    lateral: Path | None = None,
) -> CheckedXray:
    """Checks an X-ray and writes it to `picture` as the model sees it, and as given to `given.png` beside it.

    A `lateral`, the second view, is written to `lateral.png`. UserError if one is unreadable or the first is no
    frontal chest X-ray; with `allow_any_picture` the latter is a warning.
    """
    found, size = read_xray_image(xray, allow_any_picture), tuple(pipeline.protocol["xray_size"])
    if found.view == "lateral":
        xray_tile(read_xray(xray, size, lateral=True), PICTURE_SIDE).save(picture, compress_level=PNG_LEVEL)
        return CheckedXray(picture, "lateral or oblique, as the file says", [LATERAL])
    files = xray if lateral is None else (xray, lateral)
    (shown,) = read_inputs([files], pipeline, align, view, allow_any_picture)
    xray_tile(shown.picture, PICTURE_SIDE).save(picture, compress_level=PNG_LEVEL)
    second = None if lateral is None else picture.with_name("lateral.png")
    if second is not None:
        xray_tile(shown.xray[1], PICTURE_SIDE).save(second, compress_level=PNG_LEVEL)
    given = picture.with_name("given.png")
    xray_tile(scale_xray_image(found), PICTURE_SIDE).save(given, compress_level=PNG_LEVEL)
    assumed = [note for note in found.notes if note.endswith(AS_DISPLAYED)]
    if kind_of(xray) not in ("dicom", "nifti"):  # whose header or affine places the sides
        assumed.append(f"no orientation in the file: {AS_DISPLAYED}")
    return CheckedXray(picture, _orientation(shown, assumed), shown.warnings, shown, given, second)


def _orientation(shown: GeneratorInput, assumed: list[str]) -> str:
    notes, aligned = shown.notes, shown.notes.get("alignment", {}).get("align") == "lungs"
    parts = [f"{notes.get('view', 'PA')}, {notes.get('view_source', 'assumed')}"]
    if "views" in notes:
        parts.append("with a lateral" if len(notes["views"]) > 1 else "without a lateral")
    parts.append("aligned to the lungs" if aligned else "not aligned")
    return "; ".join([*parts, "head up, the patient's right on the left", *assumed])
