"""Reads the inputs of a generator from files: X-rays aligned as in training, or volumes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.coverage import fill
from dataset.imaging.frontal_check import why_not_frontal
from dataset.imaging.geometry import FRONTAL_VIEWS, fill_unknown, unknown_pose
from dataset.imaging.hu_window import Window
from dataset.imaging.resampling import resample, resample_onto
from dataset.io.ct import read_volume
from dataset.io.xray import read_xray_with_view
from dataset.xray.lung_alignment import CHOICES, lung_map
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor

log = logging.getLogger(__name__)

XrayFiles = Path | tuple[Path, ...]
"""The X-ray of a patient: one file, or a frontal and a lateral."""
NO_LUNGS = "no lungs found"
VIEW_ORDER = ("frontal", "lateral")  # of a generator with two views


@dataclass(frozen=True)
class GeneratorInput:
    """One input of a generator.

    Attributes:
        xray: the views, or the slices of a volume, in [0, 1].
        pose: NaN where unknown.
        extent: mm `(D, H, W)` of the volume to generate.
        centre: RAS mm of its centre.
        nominal: whether `extent` is that of a typical patient, as for every radiograph.
        notes: view and alignment; plain JSON.
    """

    xray: Float[Tensor, "v h w"]
    pose: Float[Tensor, "v 9"]
    extent: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nominal: bool = True
    notes: dict = field(default_factory=dict)

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
) -> list[GeneratorInput]:
    """Reads the files of each patient as inputs of a generator.

    Raises UserError for an unreadable file, a first view that is no frontal chest X-ray
    (`dataset.imaging.frontal_check`), no lungs with `align=lungs`, another number of views, or a wrong setting.

    Args:
        pipeline: `XrayToCTPipeline`.
        align: `lungs` maps the lung box of a frontal X-ray onto that of the training volumes; `none` does not. None
            follows the training; after training on DRRs alone and without pose regressor, it aligns a frontal X-ray
            whose lungs are found and whose distance from the training X-rays exceeds theirs. Laterals stay unaligned.
        view: PA or AP, of all frontal X-rays; None takes the view from each file, PA if it has none.
        allow_any_picture: whether pictures that are no frontal chest X-rays are accepted, colour pictures as grey.
    """
    patients = [(path,) if isinstance(path, Path) else path for path in paths]
    protocol = pipeline.protocol
    for files in patients:
        _check_views(files, protocol)
    if protocol.get("input") == "volume":
        return [_read_volume(path, protocol) for (path,) in patients]
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
    inputs = []
    for files in patients:
        images, of_file = _read_views(files, tuple(protocol["xray_size"]), allow_any_picture)
        if not allow_any_picture and (reason := why_not_frontal(images[0])):
            raise UserError(f"{files[0]}: {reason}")
        frontal, notes = view or of_file or "PA", {"align": "none"}
        source = "given" if view else "from the file" if of_file else "assumed"
        if align == "lungs":
            found = lung_map(images[0], box, pipeline.extent, frontal)
            if _is_like_training(images, prior):
                notes["reason"] = "similar to the training X-rays"
            elif found is not None:
                images, notes = torch.stack([found.apply(images[0]), *images[1:]]), found.describe()
            elif required:
                raise UserError(f"{files[0]}: no lungs found for the alignment; check the X-ray, or set align=none")
            else:
                log.warning("%s: no lungs found, so the X-ray is not aligned; check it", files[0])
                notes["reason"] = NO_LUNGS
        notes = {"view": frontal, "view_source": source, "alignment": notes}
        pose = unknown_pose(len(files), [frontal, *VIEW_ORDER[1:]][: len(files)])
        inputs.append(GeneratorInput(images, pose, pipeline.extent, notes=notes))
    return inputs


def aligned_views(
    given: GeneratorInput, regressor: PoseRegressor | None
) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
    """X-rays and poses as the denoiser receives them; the regressor predicts unknown poses."""
    pose = fill_unknown(given.pose, tuple(given.extent))
    if regressor is None:
        return given.xray, pose
    arguments = (given.xray[None, :, None], pose[None], given.pose.isnan().any(dim=-1)[None])
    xray, predicted = regressor(*(part.to(regressor.weight.device) for part in arguments))
    return xray[0, :, 0].cpu(), predicted[0].cpu()


def _check_views(files: tuple[Path, ...], protocol: dict) -> None:
    needed = 1 if protocol.get("input") == "volume" else protocol.get("views", 1)
    if needed > len(VIEW_ORDER):
        raise UserError(f"checkpoint: it was trained on {needed} views of a patient; give one trained on one or two")
    if len(files) != needed:
        remedy = "give both as 'xray=\"front.png;lateral.png\"'" if needed > 1 else "give the first alone"
        found = f"{len(files)} view{'s' * (len(files) > 1)}"
        raise UserError(f"xray={';'.join(map(str, files))}: {found}, the checkpoint takes {needed}; {remedy}")


def _read_views(files: tuple[Path, ...], size: tuple[int, int], colour: bool) -> tuple[Float[Tensor, "v h w"], str]:
    """The views of a patient, frontal first, and the view in the frontal file ("" for none)."""
    read = [read_xray_with_view(path, size, number > 0, colour) for number, path in enumerate(files)]
    for path, (_, view) in zip(files[1:], read[1:], strict=True):
        if view not in ("", VIEW_ORDER[1]):
            raise UserError(f"{path}: the view in the file is {view}; the second view has to be a lateral")
    return torch.stack([image for image, _ in read]), read[0][1]


def _is_like_training(images: Float[Tensor, "v h w"], prior: LinearPrior | None) -> bool:
    """Whether the distance from the mean training X-ray is at most the largest in training."""
    return prior is not None and float(prior.distance(images[None, :, None].to(prior.mean.device))) <= 1.0


def _read_volume(path: Path, protocol: dict) -> GeneratorInput:
    volume = read_volume(path)
    volume.hu = fill(volume.hu)[0]
    spacing = tuple(protocol["spacing"]) if protocol.get("resampling") == "spacing" else None
    frame = resample(volume, tuple(protocol["volume_size"]), spacing)
    slices = resample_onto(volume, frame, (protocol["volume_size"][0], *protocol["xray_size"]))
    slices = Window.parse(protocol["input_window"]).normalise(torch.from_numpy(slices)) * 0.5 + 0.5
    return GeneratorInput(slices, unknown_pose(len(slices)), frame.extent, frame.centre, nominal=False)
