"""What a generator is shown: X-ray files, laid as its training X-rays lay, or volumes if it was trained on volumes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.geometry import fill_unknown, unknown_pose
from dataset.imaging.hu_window import Window
from dataset.imaging.resampling import resample, resample_onto
from dataset.io.ct import read_volume
from dataset.io.xray import read_xray_with_view
from dataset.xray.lung_alignment import CHOICES, lung_map
from ddpm.conditioning.linear_prior import LinearPrior
from ddpm.conditioning.pose_regressor import PoseRegressor

log = logging.getLogger(__name__)

Films = Path | tuple[Path, ...]
"""The X-ray of a patient: one file, or a frontal and a lateral."""
VIEWS = ("frontal", "lateral")  # in the order in which a generator of two wants them


@dataclass(frozen=True)
class Shown:
    """One input.

    Attributes:
        xray: the views, or the slices of a volume, in [0, 1].
        pose: NaN where unknown.
        extent: mm `(D, H, W)` of the volume to be generated; nominal for a film.
        centre: RAS mm of its centre.
        nominal: whether `extent` is a typical one and not this patient's.
        notes: how it was brought to the generator; plain JSON.
    """

    xray: Float[Tensor, "v h w"]
    pose: Float[Tensor, "v 9"]
    extent: tuple[float, float, float]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    nominal: bool = True
    notes: dict = field(default_factory=dict)

    @property
    def picture(self) -> Float[Tensor, "h w"]:
        """The view, or the middle slice, that stands for it in pictures."""
        return self.xray[len(self.xray) // 2] if len(self.xray) > 2 else self.xray[0]


def read_inputs(
    paths: Sequence[Films],
    protocol: dict,
    extent: tuple[float, float, float],
    align: str | None = None,
    view: str | None = None,
    prior: LinearPrior | None = None,
    pose_guess: PoseRegressor | None = None,
) -> list[Shown]:
    """The files as the generator wants them.

    Args:
        protocol: of the generator's training data.
        extent: mm of a typical training volume.
        align: `lungs` lays a frontal film by its lungs onto the lungs of the training volumes, `none` takes it as it
            is; None does as training did, or takes `lungs` where training saw rendered X-rays alone, the lungs are
            found, the films do not lie like those of training already, and no pose is guessed, which lays them too. A
            lateral is never moved.
        view: PA or AP, of all frontal films; None: as each file states, PA where it does not.
        prior, pose_guess: of the generator, which knows the training X-rays.

    Raises:
        UserError: a file that cannot be read, a film in which no lungs are found, another number of views than the
            generator needs, or one whose training data had no lungs to align to.
    """
    patients = [(path,) if isinstance(path, Path) else path for path in paths]
    for films in patients:
        _check_views(films, protocol)
    if protocol.get("input") == "volume":
        return [_volume(path, protocol) for (path,) in patients]
    asked = align is not None
    if align is None:
        # a generator that has only seen rendered X-rays is at a loss where a film lies otherwise
        rendered, lungs = "film" not in protocol.get("xray_sources", {}), protocol.get("lung_box") is not None
        align = "lungs" if rendered and lungs and pose_guess is None else protocol.get("align", "none")
    if align not in CHOICES:
        raise UserError(f"align={align}: choose {' or '.join(CHOICES)}")
    if view not in (None, "PA", "AP"):
        raise UserError(f"view={view}: choose PA or AP, or null for what each file states")
    box = protocol.get("lung_box")
    if align == "lungs" and box is None:
        raise UserError("align=lungs: the checkpoint does not say where its training volumes had lungs; set none")
    shown = []
    for films in patients:
        path, (images, stated) = films[0], _read_films(films, tuple(protocol["xray_size"]))
        taken, notes = view or stated or "PA", {"align": "none"}
        source = "given" if view else "stated by the file" if stated else "assumed"
        if align == "lungs":
            found = lung_map(images[0], box, extent, taken)
            if not asked and protocol.get("align") != "lungs" and _lies_like_training(images, prior):
                notes = {"align": "none", "reason": "lies like the training X-rays already"}
            elif found is None and asked:
                raise UserError(f"{path}: no lungs found in this X-ray to lay it by; look at it, or set align=none")
            elif found is None:
                log.warning("%s: no lungs found in this X-ray, it is taken as it lies; look at it", path)
                notes = {"align": "none", "reason": "no lungs found"}
            else:
                images, notes = torch.stack([found.apply(images[0]), *images[1:]]), found.describe()
        notes = {"view": taken, "view_source": source, "alignment": notes}
        pose = unknown_pose(len(films), [taken, *VIEWS[1:]][: len(films)])
        shown.append(Shown(images, pose, extent, notes=notes))
    return shown


def _check_views(films: tuple[Path, ...], protocol: dict) -> None:
    volumes = protocol.get("input") == "volume"
    needed = 1 if volumes else protocol.get("views", 1)
    if needed > len(VIEWS):
        raise UserError(f"checkpoint: it was trained on {needed} views of a patient; give one trained on one or two")
    if len(films) != needed:
        remedy = "give both as 'xray=\"front.png;lateral.png\"'" if needed > 1 else "give the first alone"
        found = f"{len(films)} view{'s' * (len(films) > 1)}"
        raise UserError(f"xray={';'.join(map(str, films))}: {found}, the checkpoint takes {needed}; {remedy}")


def _read_films(films: tuple[Path, ...], size: tuple[int, int]) -> tuple[Float[Tensor, "v h w"], str]:
    """The films of a patient, frontal first, and the view that the frontal one states."""
    read = [read_xray_with_view(path, size, lateral=number > 0) for number, path in enumerate(films)]
    for path, (_, stated) in zip(films[1:], read[1:], strict=True):
        if stated not in ("", VIEWS[1]):
            raise UserError(f"{path}: the file says that it is {stated}; the second view has to be a lateral")
    return torch.stack([image for image, _ in read]), read[0][1]


def _lies_like_training(images: Float[Tensor, "v h w"], prior: LinearPrior | None) -> bool:
    """Whether they are as near to the mean training X-rays as these: a box of lungs is found to a few percent only."""
    return prior is not None and float(prior.distance(images[None, :, None].to(prior.mean.device))) <= 1.0


def placed(shown: Shown, guess: PoseRegressor | None) -> tuple[Float[Tensor, "v h w"], Float[Tensor, "v 9"]]:
    """X-rays and poses as the generator takes them: complete, and laid where it guesses unknown poses."""
    pose = fill_unknown(shown.pose, tuple(shown.extent))
    if guess is None:
        return shown.xray, pose
    told = (shown.xray[None, :, None], pose[None], shown.pose.isnan().any(dim=-1)[None])
    xray, turned = guess(*(part.to(guess.weight.device) for part in told))
    return xray[0, :, 0].cpu(), turned[0].cpu()


def told_extents(poses: Float[Tensor, "n v 9"], own: Float[Tensor, "n 3"], pipeline) -> Float[Tensor, "n 3"]:
    """Size in mm `(D, H, W)` of each volume as a generator may know it: `pipeline.extent` where a pose is unknown.

    A film does not tell how large its patient is, so a test on films may not either. A generator that is shown volumes
    knows their `own` size.
    """
    if pipeline.protocol.get("input") == "volume":
        return own
    unknown = poses.isnan().flatten(1).any(dim=1, keepdim=True)
    return torch.where(unknown, own.new_tensor(pipeline.extent), own)


def _volume(path: Path, protocol: dict) -> Shown:
    volume = read_volume(path)
    spacing = tuple(protocol["spacing"]) if protocol.get("resampling") == "spacing" else None
    frame = resample(volume, tuple(protocol["volume_size"]), spacing)
    slices = resample_onto(volume, frame, (protocol["volume_size"][0], *protocol["xray_size"]))
    shown = Window.parse(protocol["input_window"]).normalise(torch.from_numpy(slices)) * 0.5 + 0.5
    return Shown(shown, unknown_pose(len(shown)), frame.extent, frame.centre, nominal=False)
