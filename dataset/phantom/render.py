"""The embedded data set's population: analytic thoraxes in HU, fixed by seed and index, rendered at any size."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from dataset.phantom import circulation, organs
from dataset.phantom.anatomy import LABELS as LABELS  # part of this module's public face
from dataset.phantom.anatomy import Chest, draw_anatomy, draw_disease
from dataset.phantom.canvas import Canvas

POPULATION_VERSION = 1  # raise it whenever a phantom changes: results of different populations are not comparable
NOISE_HU, TEXTURE_HU = 12.0, 7.0  # standard deviations: of a voxel, and of slow changes inside a tissue


@dataclass(frozen=True)
class Phantom:
    """One patient. Volumes are `(D, H, W)`: D inferior to superior, H anterior to posterior, W right to left.

    Attributes:
        hu: With contrast in the arteries, as a CT pulmonary angiogram.
        hu_plain: Without contrast, blood and clots alike at 40 HU: what an X-ray sees.
        labels: 0 or a number of `LABELS`.
        spacing: mm, `(D, H, W)`.
        label: 1 with pulmonary embolism, else 0.
    """

    hu: Float[np.ndarray, "d h w"]
    hu_plain: Float[np.ndarray, "d h w"]
    labels: UInt8[np.ndarray, "d h w"]
    spacing: tuple[float, float, float]
    label: int


def render_phantom(
    index: int,
    seed: int = 0,
    size: tuple[int, int, int] = (64, 64, 64),
    extent: tuple[float, float, float] = (320.0, 256.0, 352.0),
    pe_share: float = 0.5,
    sign_rate: float = 0.6,
) -> Phantom:
    """Draw patient `index` of the population `seed`.

    Args:
        index: Any number from 0; patients are independent of each other and of how many are drawn.
        size: Voxels `(D, H, W)`. The patient is the same at any size, only the noise of the voxels differs.
        extent: Field of view in mm, edge to edge, `(D, H, W)`.
        pe_share: Share of patients with emboli.
        sign_rate: Share of those whose X-ray shows a sign of them.

    Raises:
        ValueError: sizes below 8 voxels, an extent that is not positive, shares outside 0 to 1, a negative index.
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
    # One stream for each purpose: who the patient is does not depend on the disease, nor either on the size
    streams = [np.random.Generator(np.random.SFC64([seed, index, k])) for k in range(4)]
    disease, raised = draw_disease(streams[0], pe_share, sign_rate)
    anatomy = draw_anatomy(streams[1], disease, raised)
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
    noise += np.multiply(fine, TEXTURE_HU, out=fine)
    quiet = (canvas.hu + 1000.0) * (1.0 / 150.0)  # the air around the patient
    noise *= np.clip(quiet, 0.2, 1.0, out=quiet)
    hu_plain = np.add(canvas.hu, noise, out=noise)
    hu = np.add(canvas.enhancement, hu_plain, out=canvas.enhancement)
    spacing = tuple(float(s) for s in canvas.spacing)
    return Phantom(hu, hu_plain, canvas.labels, spacing, int(disease.embolism))
