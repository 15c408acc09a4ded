"""Painting of heart, arteries, clots and lung vessels with contrast enhancement."""

import numpy as np

from dataset.phantom.anatomy import LABELS, SIDES, Anatomy, Chest
from dataset.phantom.canvas import Canvas

BLOOD_HU, CLOT_HU = 40.0, 50.0  # unenhanced clots and blood are similar; with contrast, clots are filling defects


def artery_paths(a: Anatomy, chest: Chest, coarsest: float) -> dict:
    """Centre lines and radii in mm of the pulmonary arteries, wide enough for clots of two voxels."""
    y, c, j = chest.middle(a.vessels.carina), a.vessels.carina, a.vessels.jitter
    wide = a.thorax.half_depth / 88.0
    fork = np.array([8.0, y - 10.0 * wide, c - 16.0]) + j[0]
    root = np.array([22.0, y - 46.0 * wide, c - 56.0]) + j[1]
    right = np.array([-44.0, y - 2.0, c - 24.0]) + j[2]
    left = np.array([42.0, y + 12.0, c - 12.0]) + j[3]
    paths = {
        "trunk": ([root, 0.5 * (root + fork) + (1.0, -4.0, 4.0), fork], (14.0, 14.5, 13.0)),
        "right": ([fork, (-16.0, y - 7.0, c - 20.0), right], (12.0, 11.0, 10.0)),
        "left": ([fork, (26.0, y + 3.0, c - 9.0), left], (12.0, 11.0, 10.0)),
        "right_upper": (right + [(14.0, -2.0, 3.0), (-6.0, -5.0, 24.0), (-18.0, -6.0, 44.0)], (8.5, 7.5, 5.5)),
        "right_lower": ([right, right + (-9.0, 11.0, -24.0), right + (-14.0, 24.0, -58.0)], (9.5, 8.5, 6.0)),
        "right_middle": (right + [(-7.0, 9.0, -20.0), (-28.0, -16.0, -36.0)], (6.0, 4.5)),
        "left_upper": (left + [(-6.0, -6.0, 3.0), (8.0, -18.0, 20.0), (16.0, -22.0, 42.0)], (8.5, 7.5, 5.5)),
        "left_lower": ([left, left + (8.0, 9.0, -26.0), left + (13.0, 20.0, -60.0)], (9.5, 8.5, 6.0)),
    }
    for name, (points, radii) in paths.items():
        radii = np.asarray(radii) * a.vessels.artery_scale
        if name != "right_middle":
            radii[:-1] = np.maximum(radii[:-1], 1.42 * coarsest)
        paths[name] = (np.array(points, np.float64), radii)
    return paths


def paint_heart(canvas: Canvas, a: Anatomy, chest: Chest) -> None:
    """Paints muscle, four chambers and the fat pad at the apex."""
    long_axis = np.array(a.heart.axis)
    across = np.cross(long_axis, (0.0, 0.0, 1.0))
    across = across / np.linalg.norm(across)
    rotation = np.stack([long_axis, across, np.cross(long_axis, across)])
    bottom = 0.5 * (a.lungs.dome[0] + a.lungs.dome[1])
    long, wide, tall = a.heart.half_axes
    centre = np.array([a.heart.shift[0], chest.front(bottom) + 8.0 + 0.98 * wide, bottom + 0.62 * tall])
    centre = centre + (0.0, a.heart.shift[1], a.heart.shift[2])
    right, left, _ = a.vessels.contrast

    def put(offset, half, hu, enhancement, label=LABELS["heart"]):
        canvas.paint_ellipsoid(centre + np.asarray(offset) @ rotation, half, hu, label, enhancement, rotation)

    put((0.78 * long, 0.0, 0.0), (0.42 * long, 0.75 * wide, 0.6 * tall), -85.0, None, None)
    put((0.0, 0.0, 0.0), (long, wide, tall), 45.0, 45.0)
    atrium = centre + (-0.56 * long, -2.0, 0.0)
    canvas.paint_ellipsoid(atrium, (0.38 * long, 0.56 * wide, 0.68 * tall), BLOOD_HU, LABELS["heart"], right)
    atrium = centre + (-0.3 * long, 0.62 * wide, 0.42 * tall)
    canvas.paint_ellipsoid(atrium, (0.42 * long, 0.42 * wide, 0.42 * tall), BLOOD_HU, LABELS["heart"], left)
    side = np.sign(across[1]) or 1.0  # `across` may point to anterior or posterior
    put((0.18 * long, 0.38 * side * wide, 0.0), (0.55 * long, 0.36 * wide, 0.46 * tall), BLOOD_HU, left)
    put((0.10 * long, -0.46 * side * wide, 0.0), (0.62 * long, 0.34 * wide, 0.6 * tall), BLOOD_HU, right)


def paint_great_vessels(canvas: Canvas, a: Anatomy, chest: Chest) -> None:
    """Paints the aorta and the superior vena cava."""
    y, c, r, j = chest.middle(a.vessels.carina), a.vessels.carina, a.vessels.aorta, a.vessels.jitter

    def beside_spine(z):
        x, spine_y = chest.spine(z)
        return (x + 17.0, spine_y - a.skeleton.vertebra - 0.5 * r, z)

    points = [
        (4.0, y - 22.0, c - 46.0),
        (-18.0 + j[4, 0], y - 30.0, c - 16.0),
        (-13.0 + j[4, 0], y - 22.0, c + 16.0 + j[4, 2]),
        (6.0, y - 4.0, c + 32.0 + j[4, 2]),
        (21.0 + j[5, 0], y + 20.0, c + 26.0 + j[4, 2]),
        *(beside_spine(z) for z in (c, c - 60.0, c - 130.0, -185.0)),
    ]
    radii = r * np.array([1.1, 1.12, 1.08, 1.0, 0.95, 0.9, 0.86, 0.8, 0.78])
    for part in (slice(0, 5), slice(4, 9)):
        canvas.paint_tube(points[part], radii[part], BLOOD_HU, LABELS["aorta"], a.vessels.contrast[1])
    cava = np.array([(-26.0, y - 18.0, c + 48.0), (-27.0, y - 18.0, c), (-26.0, y - 16.0, c - 45.0)]) + j[6]
    canvas.paint_tube(cava, [8.0, 8.5, 9.0], BLOOD_HU, LABELS["aorta"], a.vessels.contrast[2])


def paint_arteries(canvas: Canvas, a: Anatomy, paths: dict) -> None:
    """Paints the pulmonary arteries and the clots as filling defects."""
    for points, radii in paths.values():
        canvas.paint_tube(points, radii, BLOOD_HU, LABELS["arteries"], a.vessels.contrast[0])
    for name, place, share, half in a.disease.clots:  # inside their artery and at least two voxels wide
        if name == "saddle":
            (left, _), (right, _) = paths["left"], paths["right"]
            line = np.stack([left[0] + 0.6 * (left[1] - left[0]), left[0], right[0] + 0.6 * (right[1] - right[0])])
            radius = share * 11.0 * a.vessels.artery_scale
        else:
            (start, stop, *_), radii = paths[name]
            centre, along = start + place * (stop - start), stop - start
            length = np.linalg.norm(along)
            half = min(half, 0.5 * length * min(place, 1 - place) * 2)
            line = np.stack([centre - along / length * half, centre + along / length * half])
            radius = share * min(radii[0], radii[1])
        radii = np.full(len(line), max(radius, 1.1 * canvas.coarsest))
        canvas.paint_tube(line, radii, None, LABELS["clots"], CLOT_HU - BLOOD_HU)


def paint_vessels(canvas: Canvas, a: Anatomy, chest: Chest, rng: np.random.Generator, hila: list) -> None:
    """Paints the vessel tree of each lung from its hilum."""
    points, volumes = [], []
    step = 0.85 * canvas.spacing.min()
    for side, sign in enumerate(SIDES):
        seeds = rng.random((700, 3))
        x = sign * seeds[:, 0] * a.thorax.half_width[side]
        y = a.thorax.middle_y + (seeds[:, 1] * 2.1 - 1.05) * a.thorax.half_depth
        z = a.lungs.dome[side] - 45.0 + seeds[:, 2] * (a.lungs.apex[side] - a.lungs.dome[side] + 45.0)
        inside = np.flatnonzero(chest.lung(x, y, z, side, chest.cage(x, y, z)) < -7.0)
        if len(inside) < 16:
            continue
        leaves = 1 << min(7, int(np.log2(len(inside))))
        ends = np.stack([x, y, z], axis=-1)[inside[:leaves]]
        start, stop, radius = grow_tree(np.asarray(hila[side], np.float64), ends)
        if a.disease.oligaemia and a.disease.oligaemia[0] == side:
            lower = stop[:, 2] < a.vessels.carina - 22.0
            radius = radius * np.where(lower == bool(a.disease.oligaemia[1]), 0.55, 1.0)
        length = np.linalg.norm(stop - start, axis=-1)
        count = np.maximum(1, np.ceil(length / step)).astype(int)
        which = np.repeat(np.arange(len(length)), count)
        share = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 0.5) / count[which]
        points.append(start[which] + share[:, None] * (stop - start)[which])
        volumes.append(np.pi * radius[which] ** 2 * (length / count)[which])
    if points:
        spots, cover = canvas.scatter(np.concatenate(points), np.concatenate(volumes))
        # most are thinner than a voxel; a third of blood is 250 HU above the lung
        canvas.paint(cover, BLOOD_HU, LABELS["vessels"], a.vessels.contrast[0] * 0.85, spots, least=0.33)


def grow_tree(root: np.ndarray, ends: np.ndarray, leaf_radius: float = 1.1) -> tuple:
    """Segments `(start, stop, radius)` of a binary tree from `root` to `ends` `(2^k, 3)`.

    Each branch supplies one half of its parent's end points, on one side of a plane. A branch with n end points has
    n^(1/2.7) times the radius of a leaf, between area preservation and Murray's law.
    """
    groups, parents = ends[None], root[None]
    starts, stops, radii = [], [], []
    while True:
        count = groups.shape[1]
        centre = groups.mean(axis=1)
        node = groups[:, 0] if count == 1 else parents + 0.5 * (centre - parents)
        starts.append(parents)
        stops.append(node)
        radii.append(np.full(len(node), leaf_radius * count ** (1 / 2.7)))
        if count == 1:
            return np.concatenate(starts), np.concatenate(stops), np.concatenate(radii)
        axis = np.ptp(groups, axis=1).argmax(axis=1)
        order = np.take_along_axis(groups, axis[:, None, None], axis=2)[..., 0].argsort(axis=1)
        groups = np.take_along_axis(groups, order[..., None], axis=1).reshape(-1, count // 2, 3)
        parents = np.repeat(node, 2, axis=0)
