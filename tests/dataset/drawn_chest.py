"""An elliptic chest on a table, in HU, for the tests of preparation."""

import numpy as np

from dataset.imaging.volume import Volume

SPACING = (5.0, 3.5, 3.5)  # mm


SIZE = (60, 90, 110)


LUNGS = {"right": ((150.0, 160.0, 105.0), (100.0, 75.0, 55.0)), "left": ((145.0, 160.0, 265.0), (95.0, 75.0, 50.0))}


def chest(lungs=("right", "left"), blood=300.0, scale=1.0, table=True):
    """An elliptic body of soft tissue, ellipsoids of lung, a heart between them in front, a spine, a table."""
    d, h, w = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(SIZE, SPACING, strict=True)], indexing="ij")
    hu = np.full(SIZE, -1000.0, dtype=np.float32)
    hu[((h - 155) / 115) ** 2 + ((w - 190) / 150) ** 2 < 1] = 40.0
    hu[(h - 120) ** 2 / 45**2 + (w - 195) ** 2 / 40**2 + (d - 150) ** 2 / 60**2 < 1] = blood
    hu[(h - 240) ** 2 + (w - 190) ** 2 < 18**2] = 400.0
    for side in lungs:
        centre, radius = LUNGS[side]
        radius = [r * scale for r in radius]
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip((d, h, w), centre, radius, strict=True)) < 1
        hu[inside] = -830.0
    if table:
        hu[:, 84:86, 15:95] = 200.0
    return Volume(hu, SPACING, (3.0, -4.0, 100.0))
