"""Reads the inputs of a generator from files: X-rays aligned as in training, or volumes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.frontal_check import evidence, implausible, why_not_frontal
from dataset.imaging.geometry import FRONTAL_VIEWS, unknown_pose
from dataset.imaging.hu_window import Window
from dataset.imaging.lung_network import find_lungs
from dataset.imaging.resampling import resample, resample_onto
from dataset.imaging.unknown_pixels import UNKNOWN, present_views
from dataset.io.ct import read_volume
from dataset.io.xray import read_xray_with_header
from dataset.io.xray_dicom import XrayImage
from dataset.xray.lung_alignment import CHOICES, lung_map
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.view_priors import ViewPriors
from ddpm.conditioning.views import complete_views, serves_fewer_views
from ddpm.consistency.lung_guide import LungUpdate
from evaluation.generation.lung_guidance import AUTO, find_guide, lung_update
from evaluation.generation.view_pairs import view_in_name
from evaluation.generation.xray_warnings import NO_LUNGS, input_warnings

log = logging.getLogger(__name__)

XrayFiles = Path | tuple[Path, ...]
"""The X-ray of a patient: one file, or a frontal and a lateral."""
VIEW_ORDER = ("frontal", "lateral")  # of a generator with two views
# smallest `evidence` of a sure frontal: size of the smaller lung, gap, certainty. 9 of 500 lateral DRRs of phantoms
# pass `why_not_frontal` and none these; of frontal films 28 of 36 do
SURE_LUNG, SURE_GAP, SURE_CERTAINTY = 0.07, 0.62, 0.9


@dataclass(frozen=True)
class GeneratorInput:
    """One input of a generator.

    Attributes:
        xray: the views, NaN for a missing one, or the slices of a volume, in [0, 1].
        pose: NaN where unknown.
        extent: mm `(D, H, W)` of the volume to generate.
        centre: RAS mm of its centre.
        nominal: whether `extent` is that of a typical patient, as for every radiograph.
        notes: view and alignment; plain JSON.
        warnings: one line each (`evaluation.generation.xray_warnings`).
        files: that it was read from; () for a tensor.
        original: the first view before the alignment.
        guide: the update of the volume by the lungs in the X-ray (`evaluation.generation.lung_guidance`), if any.
    """

    xray: Float[Tensor, "v h w"]
    pose: Float[Tensor, "v 9"]
    extent: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nominal: bool = True
    notes: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: tuple[Path, ...] = ()
    original: Float[Tensor, "h w"] | None = None
    guide: LungUpdate | None = None

    @property
    def picture(self) -> Float[Tensor, "h w"]:
        """The first view, or the middle slice, for pictures."""
        return self.xray[len(self.xray) // 2] if len(self.xray) > 2 else self.xray[0]


def read_inputs(
    paths: Sequence[XrayFiles],
    pipeline,
    align: str | None = None,
    view: str | None = None,
    allow_any_picture: bool = False,
    lung_guide: str | None = AUTO,
) -> list[GeneratorInput]:
    """Reads the files of each patient as inputs of a generator.

    Raises UserError for an unreadable file, a first view that is no frontal chest X-ray
    (`dataset.imaging.frontal_check`), a second view that is no lateral by header or name or looks like a frontal, no
    lungs with `align=lungs`, another number of views, or a wrong setting. A generator of two views that was trained
    with dropped ones takes a frontal alone; its lateral is then NaN.

    Args:
        pipeline: `XrayToCTPipeline`.
        align: `lungs` maps the lung box of a frontal X-ray onto that of the training volumes; `none` does not. None
            follows the training; after training on DRRs alone and without pose regressor, it aligns a frontal X-ray
            whose lungs are found and whose distance from the training X-rays exceeds theirs. Laterals stay unaligned.
        view: PA or AP, of all frontal X-rays; None takes the view from each file, PA if it has none. After training
            on DRRs of one view alone every X-ray has the pose of that view (`pose_view` in the notes).
        allow_any_picture: whether pictures that are no frontal chest X-rays are accepted, colour pictures as grey.
        lung_guide: file of the guide of X-rays that are aligned by their lungs; `shipped` takes the included one,
            `auto` takes it for models that it suits, `off` takes none.
    """
    patients = [(path,) if isinstance(path, Path) else path for path in paths]
    protocol = pipeline.protocol
    for files in patients:
        _check_views(files, protocol)
    if protocol.get("input") == "volume":
        return [replace(_read_volume(path, protocol), files=(path,)) for (path,) in patients]
    box = protocol.get("lung_box")
    required = align is not None
    if align is None:
        only_drrs = "film" not in protocol.get("xray_sources", {})
        use_lungs = only_drrs and box is not None and pipeline.pose_regressor is None
        align = "lungs" if use_lungs else protocol.get("align", "none")
    if align not in CHOICES:
        raise UserError(f"align={align}: choose {' or '.join(CHOICES)}")
    if view not in (None, *FRONTAL_VIEWS):
        raise UserError(f"view={view}: choose PA or AP, or null for the view in each file")
    if align == "lungs" and box is None:
        raise UserError("align=lungs: the checkpoint contains no lung box of its training volumes; set align=none")
    # without a request or training with alignment, X-rays like those of training stay unaligned
    prior = None if required or protocol.get("align") == "lungs" else pipeline.prior
    guide, inputs = find_guide(lung_guide, pipeline) if align == "lungs" else None, []
    for files in patients:
        images, headers = _read_views(files, tuple(protocol["xray_size"]), allow_any_picture)
        original, of_file = images[0], headers[0].view
        if len(files) < protocol.get("views", 1):  # missing
            images = torch.cat([images, torch.full_like(images[:1], UNKNOWN)])
        reason = why_not_frontal(original)
        if reason and not allow_any_picture:
            raise UserError(f"{files[0]}: {reason}")
        frontal, notes = view or of_file or "PA", {"align": "none"}
        source = "given" if view else "from the file" if of_file else "assumed"
        posed = _trained_view(frontal, protocol)
        if align == "lungs":
            found = lung_map(original, box, pipeline.extent, posed)
            if _is_like_training(images, prior):
                notes["reason"] = "similar to the training X-rays"
            elif found is not None:
                images, notes = torch.stack([found.apply(original), *images[1:]]), found.describe()
            elif required:
                raise UserError(f"{files[0]}: no lungs found for the alignment; check the X-ray, or set align=none")
            else:
                notes["reason"] = NO_LUNGS
        notes = {"view": frontal, "view_source": source, "alignment": notes}
        notes |= {"pose_view": posed} if posed != frontal else {}
        if len(images) > 1:
            notes["views"] = list(VIEW_ORDER[: len(files)])
        pose = unknown_pose(len(images), [posed, *VIEW_ORDER[1:]][: len(files)])
        given = GeneratorInput(images, pose, pipeline.extent, notes=notes, files=files, original=original)
        if "found" in notes["alignment"] and guide is not None:
            given = replace(given, guide=lung_update(guide, given, found))
        warnings = input_warnings(given, pipeline, [note for header in headers for note in header.notes], reason)
        inputs.append(replace(given, warnings=warnings))
    return inputs


def tensor_inputs(
    xray: Float[Tensor, "b v 1 h w"], pipeline, pose: Float[Tensor, "b v 9"] | None = None, allow_any_picture=False
) -> list[GeneratorInput]:
    """X-rays as the model takes them, which are not aligned again; `pose` is NaN or None where unknown.

    A view that is NaN is missing; the last views may be left out, if training dropped views at times.

    Raises UserError for another shape, number of views, size or range, and for pictures of unknown pose that are no
    frontal chest X-rays.
    """
    protocol = pipeline.protocol
    shape = (protocol.get("views", 1), 1, *protocol["xray_size"])
    if xray.ndim == 5 and xray.shape[1] < shape[0] and serves_fewer_views(protocol):
        xray, pose = complete_views(xray, pose, protocol)
    if xray.ndim != 5 or tuple(xray.shape[1:]) != shape:
        raise UserError(
            f"xray: a tensor of shape {list(xray.shape)}; give one of shape [b, {', '.join(map(str, shape))}], or a "
            "path, picture or array (h, w), which is resized and aligned"
        )
    xray = xray.detach().float().cpu()
    known = xray[~xray.isnan()]
    present = present_views(xray).any(dim=1)
    if not present.all() or known.min() < 0.0 or known.max() > 1.0:
        found = f"from {known.min():g} to {known.max():g}" if present.all() else "all NaN"
        raise UserError(f"xray: values {found}; scale them to [0, 1] with bright bone")
    pose = torch.full((*xray.shape[:2], 9), float("nan")) if pose is None else torch.as_tensor(pose).float().cpu()
    if tuple(pose.shape) != (*xray.shape[:2], 9):
        raise UserError(
            f"pose: shape {list(pose.shape)}; give [{xray.shape[0]}, {xray.shape[1]}, 9], the views' poses"
        )
    inputs = []
    for views, place in zip(xray[:, :, 0], pose, strict=True):
        with_frontal = protocol.get("input") != "volume" and not bool(views[0].isnan().all())
        reason = why_not_frontal(views[0]) if with_frontal and bool(place[0].isnan().any()) else None
        if reason and not allow_any_picture:
            raise UserError(f"xray: {reason}")
        given = GeneratorInput(views, place, pipeline.extent, original=views[0])
        inputs.append(replace(given, warnings=input_warnings(given, pipeline, not_frontal=reason)))
    return inputs


def announce(inputs: Sequence[GeneratorInput]) -> None:
    """Logs the warnings of every input with its file name."""
    for given in inputs:
        for line in given.warnings:
            log.warning("%s: %s", given.files[0].name if given.files else "xray", line)


def _check_views(files: tuple[Path, ...], protocol: dict) -> None:
    needed = 1 if protocol.get("input") == "volume" else protocol.get("views", 1)
    if needed > len(VIEW_ORDER):
        raise UserError(f"checkpoint: it was trained on {needed} views of a patient; give one trained on one or two")
    fewest = 1 if serves_fewer_views(protocol) else needed
    if not fewest <= len(files) <= needed:
        remedy = "give both as 'xray=\"front.png;lateral.png\"'" if len(files) < needed else "give the first alone"
        found, takes = f"{len(files)} view{'s' * (len(files) > 1)}", str(needed) if fewest == needed else "1 or 2"
        raise UserError(f"xray={';'.join(map(str, files))}: {found}, the checkpoint takes {takes}; {remedy}")


def _read_views(files: tuple[Path, ...], size: tuple[int, int], any_picture: bool) -> tuple[Tensor, list[XrayImage]]:
    """The views of a patient `(v, h, w)`, frontal first, and what their files say."""
    read = [read_xray_with_header(path, size, i > 0, any_picture) for i, path in enumerate(files)]
    if len(files) > 1:
        _check_pair(files, [header.view for _, header in read], read[1][0], any_picture)
    return torch.stack([image for image, _ in read]), [header for _, header in read]


def _check_pair(files: Sequence[Path], views: Sequence[str], second: Float[Tensor, "h w"], any_picture: bool) -> None:
    """UserError if the second X-ray of two is no lateral: by its header, else by both names or by its picture."""
    if views[1] not in ("", "lateral"):
        raise UserError(f"{files[1]}: the view in the file is {views[1]}; the second view has to be a lateral")
    if not any(views) and [view_in_name(path) for path in files] == ["lateral", "frontal"]:
        raise UserError(
            f"{files[0]}: lateral by its name in the place of the frontal; give the frontal first and the lateral "
            "second, or rename them"
        )
    if not views[1] and not any_picture and _surely_frontal(second):
        raise UserError(
            f"{files[1]}: it looks like a frontal chest X-ray; give the lateral second, or set allow_any_picture=true"
        )


def _surely_frontal(xray: Float[Tensor, "h w"]) -> bool:
    """Whether a picture is a frontal chest X-ray, by limits above those of `why_not_frontal`."""
    found = find_lungs(xray)
    if implausible(found):
        return False
    e = evidence(found)
    return min(e["areas"]) >= SURE_LUNG and e["gap"] >= SURE_GAP and e["certainty"] >= SURE_CERTAINTY


def _trained_view(view: str, protocol: dict) -> str:
    """The frontal view of training if all its X-rays were DRRs of that one view, else `view`."""
    trained = protocol.get("drr", {}).get("view")
    mixed = "film" in protocol.get("xray_sources", {}) or "ap_share" in protocol
    return view if trained not in FRONTAL_VIEWS or mixed else trained


def _is_like_training(images: Float[Tensor, "v h w"], prior: LinearPrior | ViewPriors | None) -> bool:
    """Whether the distance from the mean training X-ray is at most the largest in training."""
    return prior is not None and float(prior.distance(images[None, :, None])) <= 1.0


def _read_volume(path: Path, protocol: dict) -> GeneratorInput:
    volume = read_volume(path)
    volume.hu = fill(volume.hu)[0]
    spacing = tuple(protocol["spacing"]) if protocol.get("resampling") == "spacing" else None
    frame = resample(volume, tuple(protocol["volume_size"]), spacing)
    slices = resample_onto(volume, frame, (protocol["volume_size"][0], *protocol["xray_size"]))
    slices = Window.parse(protocol["input_window"]).normalise(torch.from_numpy(slices)) * 0.5 + 0.5
    return GeneratorInput(slices, unknown_pose(len(slices)), frame.extent, frame.centre, nominal=False)
