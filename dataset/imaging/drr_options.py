"""Options of the DRRs of a data set: view, source, detector, grey scale, attenuation, contrast medium."""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from common.errors import UserError
from dataset.imaging.drr import IMAGES, render_xray
from dataset.imaging.forward_model import REMOVED, SHOWN, ForwardModel, attenuation_map
from dataset.imaging.geometry import FRONTAL_VIEWS, SOURCE_DETECTOR_MM, make_pose, view_pose
from dataset.imaging.iodine import remove_iodine
from dataset.imaging.resampling import downsample
from dataset.imaging.volume import Volume


@dataclass(frozen=True)
class DrrSettings:
    """Options of the DRRs of a data set; UserError for an invalid one."""

    view: str = "PA"  # PA or AP, of the first X-ray. A second one is lateral; three or more spread over 180 degrees
    source_detector: float | None = None  # mm; None means 1800, or 1200 for AP
    field: tuple[float, float] | None = None  # height and width of the detector in mm; None fits the volume
    image: str = "log"  # `log` or `linear` (`dataset.imaging.drr.render_xray`)
    attenuation: str = "bilinear"  # a key of `dataset.imaging.forward_model.MAPS`
    remove_iodine: bool = False  # remove contrast medium before projection (`dataset.imaging.iodine`)
    photons: float | None = None  # per mm² of the detector in the open field; None or 0: no quantum noise

    def __post_init__(self):
        if self.view not in FRONTAL_VIEWS:
            raise UserError(f"dataset.drr_view={self.view}: choose {' or '.join(FRONTAL_VIEWS)}")
        if self.image not in IMAGES:
            raise UserError(f"dataset.drr_image={self.image}: choose {' or '.join(IMAGES)}")
        attenuation_map(self.attenuation)
        if self.source_detector is not None and not float(self.source_detector) > 0:
            raise UserError(f"dataset.drr_distance={self.source_detector}: give mm from source to detector")
        if self.field is not None:
            field = tuple(float(f) for f in self.field)
            if len(field) != 2 or not min(field) > 0:
                raise UserError(f"dataset.drr_field={list(field)}: give height and width of the detector in mm")
            object.__setattr__(self, "field", field)
        if self.photons is not None:
            if not float(self.photons) >= 0 or math.isinf(float(self.photons)):
                raise UserError(f"dataset.drr_photons={self.photons}: give photons per mm², or null for no noise")
            object.__setattr__(self, "photons", float(self.photons) or None)

    def poses(self, extent: tuple[float, float, float], views: int = 1) -> Float[Tensor, "v 9"]:
        """Poses of the views of a volume of `extent` mm; UserError for a source inside the patient."""
        if self.source_detector is not None and float(self.source_detector) < 2.0 * max(extent):
            raise UserError(
                f"dataset.drr_distance={self.source_detector}: too near for a volume of {max(extent):.0f} mm; give "
                f"{2.0 * max(extent):.0f} mm or more"
            )
        found = [view_pose(extent, self.view, self.source_detector, self.field)]
        if views == 2:
            found.append(view_pose(extent, "lateral", self.source_detector, self.field))
        for i in range(1, views if views > 2 else 1):
            pose = make_pose(
                extent, 180.0 * i / views, source_detector=float(self.source_detector or SOURCE_DETECTOR_MM)
            )
            pose[7:9] = pose[7:9] if self.field is None else torch.tensor(self.field)
            found.append(pose)
        return torch.stack(found)

    def render(
        self, volume: Volume, poses: Float[Tensor, "v 9"], size: tuple[int, int], stream: tuple[int, ...] | None = None
    ) -> Float[Tensor, "v h w"]:
        """X-rays of a volume in [0, 1]; `stream` are random words of their noise, needed with `photons`."""
        # Rays sample the volume at points: block means of half a pixel at the patient suppress its noise.
        finest = min(float(poses[0, 7]) / size[0], abs(float(poses[0, 8])) / size[1]) / 2.0
        coarse = downsample(volume, finest)
        hu = remove_iodine(coarse.hu, coarse.spacing) if self.remove_iodine else coarse.hu
        look = self.image, self.attenuation, self.photons, stream
        return render_xray(torch.from_numpy(hu), coarse.spacing, poses, size, *look)

    def describe(self) -> dict:
        """Plain JSON; without attenuation map and photons of earlier versions, whose cases stay valid."""
        found = {**asdict(self), "field": None if self.field is None else list(self.field)}
        if self.attenuation == "bilinear":
            del found["attenuation"]
        if self.photons is None:
            del found["photons"]
        return found

    def forward_model(self, **facts: str) -> dict:
        """The forward model of these DRRs as JSON, with further `facts`."""
        facts = {"iodine": REMOVED if self.remove_iodine else SHOWN, **facts}
        if self.photons is not None:
            noise = f"Poisson of {self.photons:g} photons per mm² in the open field"
            facts = {"noise": noise, "photons": self.photons, **facts}
        return ForwardModel(self.image, self.attenuation, **facts).describe()
