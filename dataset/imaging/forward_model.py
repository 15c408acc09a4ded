"""The forward model of a data set: how its X-rays came about. It stands in the protocol of the data.

HU say how much more than water a voxel attenuates the beam of the CT scanner; the beam of a radiograph has another
spectrum, in which bone counts more. So the map from HU to attenuation is part of the model.
"""

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtr, pdtrik
from torch import Tensor

from common.errors import UserError

SHOWN, REMOVED, NOT_DRAWN = "as in the CT", "removed", "not drawn"  # iodine
FEW_PHOTONS = 100.0
FILE_GRID, CASE_GRID = "of the file", "of the case"


@dataclass(frozen=True)
class Attenuation:
    """A map from HU to the linear attenuation coefficient of a beam of one energy.

    `water (1 + HU / 1000)` up to HU 0, then linear to `dense` at `dense_hu` and beyond; both in 1/mm, `energy` in keV.
    """

    water: float
    dense: float
    dense_hu: float
    energy: float
    source: str

    def describe(self) -> dict:
        """Plain JSON."""
        return asdict(self)

    def of(self, hu: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Linear attenuation coefficient in 1/mm, 0 below -1000 HU."""
        soft = self.water * (1.0 + hu / 1000.0).clamp_min(0.0)
        return soft.where(hu <= 0.0, self.water + (self.dense - self.water) * hu / self.dense_hu)


# NIST tables 3 and 4 (Hubbell and Seltzer, NISTIR 5632) in cm²/g at 60 and 80 keV: water 0.2059, 0.1837 (1 g/cm³);
# cortical bone of ICRU-44 0.3148, 0.2229 (1.92 g/cm³). At 70 keV by interpolation of logarithms: 0.1937, 0.2616.
_WATER_60, _BONE_60, _WATER_70, _BONE_70 = 0.02059, 0.06044, 0.01937, 0.05023
MAPS = {
    "bilinear": Attenuation(
        0.0192, 0.0573, 1000.0, 70.0, "nanodrr; at 1000 HU 3.0 times water, more than cortical bone at 70 keV (2.6)"
    ),
    "linear": Attenuation(_WATER_70, 2.0 * _WATER_70, 1000.0, 70.0, "the definition of HU at the scanner's energy"),
    "two_material": Attenuation(
        _WATER_60,
        _BONE_60,
        round(1000.0 * (_BONE_70 / _WATER_70 - 1.0), 1),
        60.0,
        "water and cortical bone (NISTIR 5632), mixed by their HU at 70 keV, as seen at 60 keV",
    ),
}
MU_WATER = MAPS["bilinear"].water  # 1/mm, of the default map


def attenuation_map(name: str) -> Attenuation:
    """The map of a name; UserError for an unknown one."""
    if name not in MAPS:
        raise UserError(f"dataset.drr_attenuation={name}: choose {', '.join(MAPS)}")
    return MAPS[name]


def noise_stream(case: str) -> tuple[int, ...]:
    """Random words of the noise of a case, the same in every process and order."""
    return (int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big"),)


def photons_per_pixel(photons: float, pose: Float[Tensor, "9"], size: tuple[int, int]) -> float:
    """Photons that reach a pixel of the detector without a patient, from `photons` per mm² of the detector."""
    return photons * float(pose[7]) * abs(float(pose[8])) / (size[0] * size[1])


def with_quantum_noise(
    integrals: Float[Tensor, "rows columns"], photons: float, stream: tuple[int, ...]
) -> Float[Tensor, "rows columns"]:
    """Line integrals L as a detector measures them that counts Poisson(N exp(-L)) of N = `photons` photons a pixel.

    A pixel without any photon counts half of one, so that its logarithm is finite. A normal number of each pixel, from
    the random words `stream`, is mapped to the same quantile of its Poisson distribution: X-rays of a patient with and
    without a lesion have the same noise.
    """
    expected = photons * np.exp(-integrals.detach().cpu().double().numpy())
    normal = np.random.default_rng(stream).standard_normal(expected.shape)
    # many counts: the quantile by Cornish and Fisher's expansion, at most one photon off
    counted = np.rint(expected + np.sqrt(expected) * normal + (normal**2 - 1.0) / 6.0)
    few = expected < FEW_PHOTONS
    counted[few] = np.ceil(pdtrik(ndtr(normal[few]), expected[few]))
    return torch.from_numpy(-np.log(np.maximum(counted, 0.5) / photons)).to(integrals)


@dataclass(frozen=True)
class ForwardModel:
    """How DRRs of volumes came about: one energy, no scatter.

    Attributes:
        image: grey scale (`dataset.imaging.drr.render_xray`).
        attenuation: a key of `MAPS`.
        iodine: `SHOWN`, `REMOVED` (`dataset.imaging.iodine`), or `NOT_DRAWN`: the X-rays of phantoms are those of the
            same drawing without contrast medium.
        grid: that of the rendered volume: `FILE_GRID`, `CASE_GRID`, or another in words.
        noise: of the detector, in words.
        photons: per mm² of the detector in the open field, whose Poisson noise the X-rays have; None = no such noise.
        pose: whether the stored poses are those of rendering.
    """

    image: str = "log"
    attenuation: str = "bilinear"
    iodine: str = SHOWN
    grid: str = FILE_GRID
    noise: str = "none"
    photons: float | None = None
    pose: str = "known"

    def describe(self) -> dict:
        """Plain JSON with the numbers of the attenuation map."""
        return {**asdict(self), "attenuation_map": attenuation_map(self.attenuation).describe()}

    @classmethod
    def of_protocol(cls, protocol: dict) -> "ForwardModel | None":
        """That of the data of a protocol; None for input volumes and where some X-rays are files, as radiographs are.

        Protocols of earlier versions that have such files state the model of their DRRs.
        """
        unstated = "forward_model" in protocol and protocol["forward_model"] is None
        return None if unstated or "film" in (protocol.get("xray_sources") or {}) else cls.of_drrs(protocol)

    @classmethod
    def of_drrs(cls, protocol: dict) -> "ForwardModel | None":
        """That of those X-rays of a protocol that this project renders; None where it is not described.

        Protocols of earlier versions do not state it, but determine it.
        """
        described = protocol.get("forward_model")
        if isinstance(described, dict):
            known = {key: described[key] for key in cls.__dataclass_fields__ if key in described}
            return cls(**known) if known.get("attenuation", "bilinear") in MAPS else None
        drr = protocol.get("drr")
        if isinstance(drr, dict):
            iodine = REMOVED if drr.get("remove_iodine") else SHOWN
            look = drr.get("image", "log"), drr.get("attenuation", "bilinear"), iodine
            return cls(*look, photons=drr.get("photons"))
        if str(protocol.get("dataset", "")).startswith("phantom") and "xrays" in protocol:
            return cls(iodine=NOT_DRAWN, grid=CASE_GRID)
        return None

    @property
    def why_not_applicable(self) -> str | None:
        """Why no X-ray of a volume with contrast medium can be compared with these X-rays; None if one can."""
        if self.iodine == NOT_DRAWN:
            return "the X-rays show the drawing without contrast medium, which the volumes contain"
        return None
