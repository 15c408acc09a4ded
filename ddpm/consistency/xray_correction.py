"""Which samples are updated towards which X-ray, and how well they agree with it in the end."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.geometry import fill_unknown
from dataset.imaging.unknown_pixels import present_views
from ddpm.conditioning.pose_regressor import PoseRegressor
from ddpm.consistency.films.calibration import FilmCalibration
from ddpm.consistency.films.measurement import FilmMeasurement
from ddpm.consistency.projection_consistency import Measurement, ProjectionConsistency
from ddpm.consistency.proximal_update import Update

MODES = {"on": True, "off": False, "true": True, "false": False, "none": None, "null": None}
REMEDY = "python train/fit_parts.py checkpoint=<path> adds it; or set sampler.consistency=off"


def consistency_mode(value: str | bool | None, part: ProjectionConsistency | None) -> bool | None:
    """`sampler.consistency` as True, False, or None for where it is possible; UserError for True without the part."""
    name = str(value).lower()
    if name not in MODES:
        raise UserError(f"sampler.consistency={value}: choose on, off or null")
    if MODES[name] and part is None:
        raise UserError(f"sampler.consistency=on: these weights hold no model of the projection; {REMEDY}")
    return MODES[name]


def describe_mode(part: ProjectionConsistency | None, mode: bool | None) -> str:
    """`on`, `off`, or `known poses`, for the settings of a result."""
    if part is None or mode is False:
        return "off"
    return "on" if mode else "known poses"


class LatentUpdate(Protocol):
    """What latents are updated towards."""

    def update(self, clean: Float[Tensor, "b c d h w"], signal: float, noise: float) -> Update:
        """The change of clean latents that were predicted at a noise level."""


class XrayCorrection:
    """The updates of all X-rays of a call.

    Args:
        part: that of the pipeline, or None.
        mode: True updates every sample, those of a film with its own grey scale and pose
            (`ddpm.consistency.films`); None those of X-rays with known poses, False none, but measures their chi².
        xray, pose, extent: `(b, v, 1, h, w)`, `(b, v, 9)` NaN where unknown, and `(b, 3)` in mm.
        ids: names of the X-rays in messages.
        guides: of each X-ray the update by its lungs (`ddpm.consistency.lung_guide`), or None; takes the place of one
            towards the X-ray where there is none.
        regressor: estimates the pose from which that of a film is searched; None starts at the nominal one.

    UserError for True with an X-ray of another number of views.
    """

    def __init__(
        self,
        part: ProjectionConsistency | None,
        mode: bool | None,
        xray: Float[Tensor, "b v 1 h w"],
        pose: Float[Tensor, "b v 9"],
        extent: Float[Tensor, "b 3"],
        ids: list[str],
        guides: Sequence[LatentUpdate | None] | None = None,
        regressor: PoseRegressor | None = None,
    ):
        self.measurements: list[Measurement | FilmMeasurement | None] = [None] * len(xray)
        self.guides = [None] * len(xray) if guides is None else list(guides)
        self.updates, self._first = mode is not False, {}
        self._films: dict[int, list[FilmCalibration]] = {}
        self._present = present_views(xray).cpu()
        if part is None:
            return
        for i, name in enumerate(ids):
            film = bool(pose[i][present_views(xray[i : i + 1])[0].cpu()].isnan().any())
            if xray.shape[1] != part.config.views:
                if mode:
                    reason = f"it has {xray.shape[1]} views, the model of the projection {part.config.views}"
                    raise UserError(f"sampler.consistency=on: X-ray {name}: {reason}; set null or off")
                continue
            place = fill_unknown(pose[i], tuple(extent[i].tolist()))  # also of missing views, whose pixels are unknown
            if not film:
                self.measurements[i] = part.measurement(xray[i], place, extent[i])
            elif mode:
                self.measurements[i] = _film(part, xray[i], place, pose[i].isnan().any(dim=-1), extent[i], regressor)

    def __bool__(self) -> bool:
        return self.updates and self.measures or any(guide is not None for guide in self.guides)

    @property
    def measures(self) -> bool:
        """Whether samples of an X-ray can be compared with it."""
        return any(one is not None for one in self.measurements)

    def measure(self, xrays: list[int], clean: Float[Tensor, "n c d h w"]) -> None:
        """Keeps the first predictions, which no update has changed, of samples of the X-rays at `xrays`."""
        for i, one in zip(xrays, clean, strict=True):
            if isinstance(self.measurements[i], FilmMeasurement):
                continue  # chi² after a fit to the film is not comparable with that of X-rays of known pose
            total, count = self._first.get(i, (0.0, 0))
            self._first[i] = total + one, count + 1

    def first_chi2(self) -> Float[Tensor, " b"] | None:
        """chi² per pixel of the mean first prediction for each X-ray, NaN without a measurement; None without any."""
        if not self._first:
            return None
        found = torch.full((len(self.measurements),), float("nan"))
        places = sorted(self._first)
        found[places] = self.chi2(torch.stack([self._first[i][0] / self._first[i][1] for i in places]), places)
        return found

    def update(
        self, xrays: list[int], clean: Float[Tensor, "n c d h w"], signal: float, noise: float
    ) -> Float[Tensor, "n c d h w"]:
        """Clean latents, predicted at a noise level for the X-rays at positions `xrays`, updated towards them."""
        clean = clean.clone()
        for i in sorted(set(xrays)):
            rows = [row for row, j in enumerate(xrays) if i == j]
            if (towards := (self.measurements[i] if self.updates else None) or self.guides[i]) is not None:
                clean[rows] += towards.update(clean[rows], signal, noise).change
        return clean

    def chi2(self, clean: Float[Tensor, "n c d h w"], xrays: list[int]) -> Float[Tensor, " n"]:
        """chi² per pixel of latents against the X-ray of each; NaN without a measurement.

        A film is compared at the grey scale and pose that fit each latents best, which `films` keeps.
        """
        found = torch.full((len(clean),), float("nan"))
        for row, (i, one) in enumerate(zip(xrays, clean, strict=True)):
            measurement = self.measurements[i]
            if isinstance(measurement, FilmMeasurement):
                calibration = measurement.calibration(one[None])
                self._films.setdefault(i, []).append(calibration)
                measurement = measurement.at(calibration)
            if measurement is not None:
                found[row] = measurement.chi2(one[None])[0]
        return found

    def films(self) -> list[dict | None] | None:
        """For each X-ray None or, for a film, plain JSON of the calibrations of its samples; None without a film.

        `gain` to `across` (`FilmCalibration.values`) are means over the samples, one number a view that is present;
        `at_bound` names those that end at a limit in some sample.
        """
        if not self._films:
            return None
        found: list[dict | None] = [None] * len(self.measurements)
        for i, samples in self._films.items():
            values = [one.values() for one in samples]
            mean = {name: torch.stack([v[name] for v in values]).mean(dim=0) for name in values[0]}
            reached = dict.fromkeys(name for one in samples for name in one.at_bound())
            found[i] = {name: [round(v, 3) for v in mean[name].cpu()[self._present[i]].tolist()] for name in mean} | {
                "at_bound": [*reached]
            }
        return found


def _film(
    part: ProjectionConsistency,
    xray: Float[Tensor, "v 1 h w"],
    pose: Float[Tensor, "v 9"],
    unknown: Bool[Tensor, " v"],
    extent: Float[Tensor, "3"],
    regressor: PoseRegressor | None,
) -> FilmMeasurement:
    """The measurement of a film as the network takes it: aligned by the regressor, with the angles that this finds."""
    pose = pose.to(xray.device)
    if regressor is not None:
        xray, pose = (one[0] for one in regressor(xray[None], pose[None], unknown[None].to(xray.device)))
    return FilmMeasurement.of(part, xray, pose, extent)
