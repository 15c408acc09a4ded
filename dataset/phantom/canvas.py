"""A voxel grid for painting structures given in mm with anti-aliased edges.

Body coordinates `(x, y, z)` in mm: x toward the patient's left, y toward posterior, z upward. The grid is `(D, H, W)`.
A field is a signed distance in mm, negative inside; coverage is the share of a voxel inside a structure, 0 to 1.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np

AIR_HU = -1000.0
# Raises glibc's dynamic mmap threshold: arrays up to this size then reuse freed memory without page faults, which took
# a quarter of the rendering time.
np.empty(30 << 20, np.uint8)


class Posture(NamedTuple):
    """Pose of the patient: shift in mm, rotation about the long axis in radians, lean in mm per mm."""

    shift: tuple[float, float, float]  # x, y, z
    turn: float
    lean: tuple[float, float]  # x and y per z


class Canvas:
    """Arrays of unenhanced HU, contrast enhancement and labels; later structures overwrite earlier ones.

    `x` and `y` are the body coordinates of each voxel, `(D, H, W)`; `z` has the shape `(D, 1, 1)`. With `layers`, the
    canvas holds only these of the `D` layers.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        extent: tuple[float, float, float],
        posture: Posture,
        layers: slice = slice(None),  # noqa: B008 (immutable)
    ):
        self._whole, self._layers, self.posture = size, layers, posture
        self._start, stop, _ = layers.indices(size[0])
        self.size = (stop - self._start, *size[1:])
        self.spacing = np.array(extent, np.float32) / np.array(size, np.float32)
        self.soft = float(self.spacing.prod()) ** (1.0 / 3.0)  # mm, width of an edge, as the partial volume of a CT
        self.coarsest = float(self.spacing.max())
        self._step = tuple(float(s) for s in self.spacing)
        # mm, outer edge of voxel 0, (D, H, W)
        self._first = (self._start * self._step[0] - extent[0] / 2, -extent[1] / 2, -extent[2] / 2)
        self._cos, self._sin = float(np.cos(posture.turn)), float(np.sin(posture.turn))
        shares = (((np.arange(n) + 0.5) / n - 0.5).astype(np.float32) for n in size)
        grid_z, grid_y, grid_x = (share * np.float32(length) for share, length in zip(shares, extent, strict=True))
        self.z = (grid_z[layers] - np.float32(posture.shift[2]))[:, None, None]
        shift_x = posture.shift[0] + posture.lean[0] * self.z
        shift_y = posture.shift[1] + posture.lean[1] * self.z
        cos, sin = self._cos, self._sin
        self.x = (cos * grid_x + sin * grid_y[:, None]) - (cos * shift_x + sin * shift_y)
        self.y = (cos * grid_y[:, None] - sin * grid_x) + (sin * shift_x - cos * shift_y)
        self.hu = np.full(self.size, AIR_HU, np.float32)
        self.enhancement = np.zeros(self.size, np.float32)
        self.labels = np.zeros(self.size, np.uint8)

    def box(self, centre, half) -> tuple[slice, slice, slice]:
        """Slices of the voxels in a box of half sides `half` mm around a body point; may be empty."""
        # plain numbers avoid the array overhead, a tenth of the rendering time
        x, y, z = (float(v) for v in centre)
        hx, hy, hz = (float(h) + self.soft for h in half)
        cos, sin, (shift, _, lean) = self._cos, self._sin, self.posture
        middle_y, middle_x = sin * x + cos * y + shift[1] + lean[1] * z, cos * x - sin * y + shift[0] + lean[0] * z
        middle = (z + shift[2], middle_y, middle_x)
        cos, sin = abs(cos), abs(sin)
        reach = (hz, sin * hx + cos * hy + abs(lean[1]) * hz, cos * hx + sin * hy + abs(lean[0]) * hz)
        slices = []
        for at, span, first, step, count in zip(middle, reach, self._first, self._step, self.size, strict=True):
            at, span = (at - first) / step - 0.5, span / step
            low = max(math.ceil(at - span), 0)
            slices.append(slice(low, max(low, min(math.floor(at + span) + 1, count))))
        return tuple(slices)

    def coverage(self, field: np.ndarray) -> np.ndarray:
        """Coverage of a distance field in mm."""
        cover = field * np.float32(-1.0 / self.soft)
        cover += np.float32(0.5)
        return np.clip(cover, 0.0, 1.0, out=cover)

    def paint(
        self, cover, hu, label: int | None = None, enhancement: float | None = None, where=..., least=0.5
    ) -> None:
        """Blends a structure with weights `cover` over `where`, slices or flat voxel indices.

        `enhancement` is the HU that contrast adds. None leaves the respective array unchanged. Voxels with a coverage
        above `least` get the label.
        """
        flat = isinstance(where, np.ndarray)
        for array, value in ((self.hu, hu), (self.enhancement, enhancement)):
            if value is not None:
                array = array.reshape(-1) if flat else array
                change = value - array[where]
                change *= cover
                array[where] += change
        if label is not None and flat:
            self.labels.reshape(-1)[where[cover > least]] = label
        elif label is not None:
            np.copyto(self.labels[where], np.uint8(label), where=cover > least)

    def ellipsoid(self, centre, half, rotation: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
        """First-order distance field of an ellipsoid and its slices; `rotation` has the ellipsoid axes as rows."""
        half = np.asarray(half, np.float64)
        reach = half if rotation is None else np.sqrt(((rotation * half[:, None]) ** 2).sum(axis=0))
        where = self.box(centre, reach)
        x, y, z = self._offsets(where, centre)
        if rotation is not None:
            r = rotation.astype(np.float32)
            x, y, z = (r[i, 0] * x + r[i, 1] * y + r[i, 2] * z for i in range(3))
        a, b, c = (np.float32(1.0 / h) for h in half)
        x, y, z = x * a, y * b, z * c
        x2, y2, z2 = x * x, y * y, z * z
        level = np.sqrt(x2 + y2 + z2)
        slope = np.sqrt(x2 * (a * a) + y2 * (b * b) + z2 * (c * c))  # |gradient| of level, times level
        return (level - 1.0) * level / np.maximum(slope, np.float32(1e-4)), where

    def tube(self, points: np.ndarray, radii: np.ndarray, margin: float = 0.0) -> tuple[np.ndarray, tuple]:
        """Distance field of a tube through body points `(n, 3)` with radii, and its slices plus `margin` mm."""
        points, radii = np.asarray(points, np.float64), np.asarray(radii, np.float64)
        reach = radii[:, None] + margin
        low, high = (points - reach).min(axis=0), (points + reach).max(axis=0)
        where = self.box((low + high) / 2, (high - low) / 2)
        field = None
        for start, end, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            x, y, z = self._offsets(where, start)
            ax, ay, az = (np.float32(v) for v in end - start)
            along = (x * ax + y * ay + z * az) * np.float32(1.0 / max(float(((end - start) ** 2).sum()), 1e-6))
            np.clip(along, 0.0, 1.0, out=along)
            x, y, z = x - along * ax, y - along * ay, z - along * az
            distance = np.sqrt(x * x + y * y + z * z) - (np.float32(r0) + along * np.float32(r1 - r0))
            field = distance if field is None else np.minimum(field, distance, out=field)
        return field, where

    def paint_ellipsoid(self, centre, half, hu, label=None, enhancement=None, rotation=None) -> None:
        """`paint` for an ellipsoid."""
        field, where = self.ellipsoid(centre, half, rotation)
        self.paint(self.coverage(field), hu, label, enhancement, where)

    def paint_tube(self, points, radii, hu, label=None, enhancement=None) -> None:
        """`paint` for a tube."""
        field, where = self.tube(points, radii)
        self.paint(self.coverage(field), hu, label, enhancement, where)

    def scatter(self, points: np.ndarray, volumes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat voxel indices and coverage of `volumes` in mm³ at body points, for tubes thinner than a voxel."""
        (x, y, z), (shift, _, lean) = np.moveaxis(points, -1, 0), self.posture
        grid_x = self._cos * x - self._sin * y + shift[0] + lean[0] * z
        grid_y = self._sin * x + self._cos * y + shift[1] + lean[1] * z
        place = (np.stack([z + shift[2], grid_y, grid_x], axis=-1) - self._first) / self.spacing - 0.5
        base = np.floor(place)
        part = (place - base).astype(np.float32)
        base = base.astype(np.int64)
        start = np.array((self._start, 0, 0))
        inside = ((base >= -start) & (base < np.array(self._whole) - 1 - start)).all(axis=-1)
        base, part = base[inside], part[inside]
        share = (volumes[inside] / self.spacing.prod()).astype(np.float32)
        stride = np.array([self.size[1] * self.size[2], self.size[2], 1])
        flat = base @ stride
        weight = [(1.0 - part[:, axis], part[:, axis]) for axis in range(3)]
        places, shares = [], []
        for i, j, k in product((0, 1), repeat=3):
            places.append(flat + (i * stride[0] + j * stride[1] + k))
            shares.append(share * weight[0][i] * weight[1][j] * weight[2][k])
        places, shares, count = np.concatenate(places), np.concatenate(shares), int(np.prod(self.size))
        held = (places >= 0) & (places < count)  # not in the layers beside these
        cover = np.bincount(places[held], shares[held], minlength=count)
        spots = np.flatnonzero(cover)
        return spots, np.minimum(cover[spots], 1.0).astype(np.float32)

    def texture(self, coarse: np.ndarray) -> np.ndarray:
        """A cube `(n, n, n)` interpolated linearly to the grid, so that the texture is the same at any size."""
        for axis, count in reversed(list(enumerate(self._whole))):  # the longest rows last
            at = (np.arange(count) + 0.5) / count * (coarse.shape[axis] - 1)
            at = at[self._layers] if axis == 0 else at
            left = np.minimum(at.astype(int), coarse.shape[axis] - 2)
            part = (at - left).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
            low, high = coarse.take(left, axis), coarse.take(left + 1, axis)
            high -= low
            high *= part
            high += low
            coarse = high
        return coarse

    def _offsets(self, where: tuple, centre) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y, z = (np.float32(v) for v in centre)
        return self.x[where] - x, self.y[where] - y, self.z[where[0]] - z


class PlainCanvas(Canvas):
    """A canvas of unenhanced HU alone, for X-rays."""

    def paint(
        self, cover, hu, label: int | None = None, enhancement: float | None = None, where=..., least=0.5
    ) -> None:
        """Blends unenhanced HU; the rest is not drawn."""
        if hu is not None:
            super().paint(cover, hu, where=where)
