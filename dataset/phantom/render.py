"""Phantom population: analytic chests in HU, determined by seed and index, rendered at any size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from dataset.imaging.volume import Volume
from dataset.phantom import circulation, organs
from dataset.phantom.anatomy import LABELS as LABELS  # re-exported
from dataset.phantom.anatomy import Chest, Disease, draw_anatomy, draw_disease
from dataset.phantom.canvas import Canvas, PlainCanvas

DRAWING_VERSION = 1  # raise it when the drawing of a phantom changes: results of different versions do not compare
SLAB = 2**19  # voxels that are drawn at once for X-rays, so that they stay in the cache of the processor
FINDINGS, ANATOMY, TISSUE, NOISE = range(4)  # purposes of random streams
NOISE_HU, TEXTURE_HU = 12.0, 7.0  # standard deviation of voxel noise and of low-frequency texture


@dataclass(frozen=True)
class Phantom:
    """One patient. Volumes are `(D, H, W)`: D inferior to superior, H anterior to posterior, W right to left."""

    hu: Float[np.ndarray, "d h w"]  # with contrast, as a CT pulmonary angiogram
    hu_plain: Float[np.ndarray, "d h w"]  # without contrast
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
        size: voxels `(D, H, W)`, at least 8 each. The voxel noise depends on it, and how much of a lung vessel a
            voxel can hold.
        extent: field of view in mm, edge to edge, `(D, H, W)`.
        pe_share: share of patients with emboli.
        sign_rate: share of those with radiographic signs.
        disease: findings in place of the drawn ones.
    """
    size, extent = _checked(index, seed, size, extent, pe_share, sign_rate)
    canvas, texture, disease = _draw(Canvas, index, seed, size, extent, pe_share, sign_rate, disease)
    noise = _stream(index, seed, NOISE).standard_normal(size, dtype=np.float32)
    noise *= NOISE_HU
    noise += texture * TEXTURE_HU
    noise *= _grain(canvas.hu)
    hu_plain = canvas.hu + noise
    hu = canvas.enhancement + hu_plain
    return Phantom(hu, hu_plain, canvas.labels, tuple(float(s) for s in canvas.spacing), int(disease.embolism))


def draw_for_xrays(
    index: int,
    seed: int = 0,
    size: tuple[int, int, int] = (64, 64, 64),
    extent: tuple[float, float, float] = (320.0, 256.0, 352.0),
    pe_share: float = 0.5,
    sign_rate: float = 0.6,
    disease: Disease | None = None,
    oversample: int = 2,
) -> Volume:
    """What X-rays of the patient of `render_phantom` show: no contrast medium, no noise of a CT, finer voxels.

    The anatomy is the same; each voxel of `size` has `oversample` voxels along each side.
    """
    size, extent = _checked(index, seed, size, extent, pe_share, sign_rate)
    fine = tuple(oversample * n for n in size)
    hu, step = np.empty(fine, np.float32), max(1, SLAB // (fine[1] * fine[2]))
    for layers in (slice(first, first + step) for first in range(0, fine[0], step)):
        rest = disease, oversample, layers
        canvas, texture, _ = _draw(PlainCanvas, index, seed, fine, extent, pe_share, sign_rate, *rest)
        texture *= TEXTURE_HU
        texture *= _grain(canvas.hu)
        np.add(canvas.hu, texture, out=hu[layers])
    return Volume(hu, tuple(float(s) for s in canvas.spacing))


def _draw(
    kind: type[Canvas],
    index,
    seed,
    size,
    extent,
    pe_share,
    sign_rate,
    disease: Disease | None,
    oversample: int = 1,
    layers: slice = slice(None),  # noqa: B008 (immutable)
) -> tuple[Canvas, np.ndarray, Disease]:
    """The painted canvas, its low-frequency texture with unit deviation, and the findings."""
    disease = draw_disease(_stream(index, seed, FINDINGS), pe_share, sign_rate) if disease is None else disease
    anatomy, tissue = draw_anatomy(_stream(index, seed, ANATOMY), disease), _stream(index, seed, TISSUE)
    chest = Chest(anatomy)
    canvas = kind(size, extent, anatomy.posture, layers)
    texture = canvas.texture(tissue.standard_normal((20, 20, 20), dtype=np.float32))
    # arteries are wide enough for clots of two voxels of the case, not of the finer drawing
    paths = circulation.artery_paths(anatomy, chest, oversample * canvas.coarsest)

    cage, muscle = organs.paint_body(canvas, anatomy, chest)
    organs.paint_abdomen(canvas, anatomy, chest, cage)
    organs.paint_lungs(canvas, anatomy, chest, cage, texture)
    hila = [paths[name][0][0] for name in ("right_lower", "left_lower")]
    circulation.paint_vessels(canvas, anatomy, chest, tissue, hila)
    circulation.paint_heart(canvas, anatomy, chest)
    organs.paint_bones(canvas, anatomy, chest, cage, muscle)
    circulation.paint_great_vessels(canvas, anatomy, chest)
    organs.paint_airways(canvas, anatomy, chest)
    circulation.paint_arteries(canvas, anatomy, paths)
    return canvas, texture, disease


def _stream(index: int, seed: int, purpose: int) -> np.random.Generator:
    """One stream per purpose: findings, anatomy and noise are independent."""
    return np.random.Generator(np.random.SFC64([seed, index, purpose]))


def _grain(hu: np.ndarray) -> np.ndarray:
    """Strength of noise and texture, which is less in air."""
    return np.clip((hu + 1000.0) * (1.0 / 150.0), 0.2, 1.0)


def _checked(index, seed, size, extent, pe_share, sign_rate) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Size and extent as plain numbers; ValueError for an invalid argument."""
    size, extent = tuple(int(n) for n in size), tuple(float(e) for e in extent)
    if len(size) != 3 or min(size) < 8:
        raise ValueError(f"size must be three numbers of at least 8 voxels, found {size}")
    if len(extent) != 3 or not min(extent) > 0:
        raise ValueError(f"extent must be three positive mm, found {extent}")
    if not (0 <= pe_share <= 1 and 0 <= sign_rate <= 1):
        raise ValueError(f"pe_share and sign_rate must be within 0 and 1, found {pe_share} and {sign_rate}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, found {index} and {seed}")
    return size, extent
