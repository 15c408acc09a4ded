"""Phantom population: analytic chests in HU, determined by seed and index, rendered at any size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from dataset.phantom import circulation, organs
from dataset.phantom.anatomy import LABELS as LABELS  # re-exported
from dataset.phantom.anatomy import Chest, Disease, draw_anatomy, draw_disease
from dataset.phantom.canvas import Canvas

POPULATION_VERSION = 1  # increase it when a phantom changes: results of different versions are not comparable
NOISE_HU, TEXTURE_HU = 12.0, 7.0  # standard deviation of voxel noise and of low-frequency texture


@dataclass(frozen=True)
class Phantom:
    """One patient. Volumes are `(D, H, W)`: D inferior to superior, H anterior to posterior, W right to left."""

    hu: Float[np.ndarray, "d h w"]  # with contrast, as a CT pulmonary angiogram
    hu_plain: Float[np.ndarray, "d h w"]  # without contrast, for DRRs
    labels: UInt8[np.ndarray, "d h w"]  # 0 or a value of `LABELS`
    spacing: tuple[float, float, float]  # mm, (D, H, W)
    label: int  # 1 with pulmonary embolism, else 0


def render_phantom(
    index: int,
    seed: int = 0,
    size: tuple[int, int, int] = (64, 64, 64),
    extent: tuple[float, float, float] = (320.0, 256.0, 352.0),
    pe_share: float = 0.5,
    sign_rate: float = 0.6,
    disease: Disease | None = None,
) -> Phantom:
    """Patient `index` of the population `seed`; patients are independent of each other.

    Args:
        size: voxels `(D, H, W)`, at least 8 each. Only the voxel noise depends on it.
        extent: field of view in mm, edge to edge, `(D, H, W)`.
        pe_share: share of patients with emboli.
        sign_rate: share of those with radiographic signs.
        disease: findings in place of the drawn ones.
    """
    size, extent = tuple(int(n) for n in size), tuple(float(e) for e in extent)
    if len(size) != 3 or min(size) < 8:
        raise ValueError(f"size must be three numbers of at least 8 voxels, found {size}")
    if len(extent) != 3 or not min(extent) > 0:
        raise ValueError(f"extent must be three positive mm, found {extent}")
    if not (0 <= pe_share <= 1 and 0 <= sign_rate <= 1):
        raise ValueError(f"pe_share and sign_rate must be within 0 and 1, found {pe_share} and {sign_rate}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, found {index} and {seed}")
    # one stream per purpose: anatomy, disease and noise are independent
    streams = [np.random.Generator(np.random.SFC64([seed, index, k])) for k in range(4)]
    disease = draw_disease(streams[0], pe_share, sign_rate) if disease is None else disease
    anatomy = draw_anatomy(streams[1], disease)
    chest = Chest(anatomy)
    canvas = Canvas(size, extent, anatomy.posture)
    fine = canvas.texture(streams[2].standard_normal((20, 20, 20), dtype=np.float32))
    paths = circulation.artery_paths(anatomy, chest, canvas.coarsest)

    cage, muscle = organs.paint_body(canvas, anatomy, chest)
    organs.paint_abdomen(canvas, anatomy, chest, cage)
    organs.paint_lungs(canvas, anatomy, chest, cage, fine)
    hila = [paths[name][0][0] for name in ("right_lower", "left_lower")]
    circulation.paint_vessels(canvas, anatomy, chest, streams[2], hila)
    circulation.paint_heart(canvas, anatomy, chest)
    organs.paint_bones(canvas, anatomy, chest, cage, muscle)
    circulation.paint_great_vessels(canvas, anatomy, chest)
    organs.paint_airways(canvas, anatomy, chest)
    circulation.paint_arteries(canvas, anatomy, paths)

    noise = streams[3].standard_normal(size, dtype=np.float32)
    noise *= NOISE_HU
    noise += fine * TEXTURE_HU
    noise *= np.clip((canvas.hu + 1000.0) * (1.0 / 150.0), 0.2, 1.0)  # less noise in air
    hu_plain = canvas.hu + noise
    hu = canvas.enhancement + hu_plain
    return Phantom(hu, hu_plain, canvas.labels, tuple(float(s) for s in canvas.spacing), int(disease.embolism))
