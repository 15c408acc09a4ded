"""Painting of body, abdomen, lungs, bones and airways, one function each."""

import numpy as np

from dataset.phantom.anatomy import LABELS, SIDES, Anatomy, Chest, oval
from dataset.phantom.canvas import AIR_HU, Canvas

FAT_HU, MUSCLE_HU, MEDIASTINUM_HU, BONE_HU = -100.0, 52.0, 0.0, 420.0


def paint_body(canvas: Canvas, a: Anatomy, chest: Chest) -> tuple[np.ndarray, np.ndarray]:
    """Paints all soft tissue outside the organs; returns the distance fields of the cage and of the muscle."""
    x, y, z = canvas.x, canvas.y, canvas.z
    cage = chest.cage(x, y, z)
    shrink = np.clip((z - (chest.top - 10.0)) / 58.0, 0.0, 1.0)
    shrink = shrink * shrink * (3.0 - 2.0 * shrink)
    rise = np.clip((z - 15.0) / 110.0, 0.0, 1.0)
    wide = 1.0 - 0.66 * shrink
    right, left = (1.0 / ((w + a.thorax.muscle) * wide) for w in a.thorax.half_width)
    depth = (a.thorax.half_depth + a.thorax.muscle + 5.0) * (1.0 - 0.20 * rise - 0.25 * shrink)
    muscle = oval(x, y - (a.thorax.middle_y + 7.0 + 8.0 * rise), right, left, 1.0 / depth, 1.7)
    for side in range(2):
        girdle = [(0.0, a.thorax.middle_y + 14.0, chest.top - 6.0), _shoulder(a, chest, side)]
        field, where = canvas.tube(np.array(girdle), np.array([34.0, 31.0]), margin=a.thorax.fat)
        np.minimum(muscle[where], field, out=muscle[where])
    for field, change in ((muscle - a.thorax.fat, FAT_HU - AIR_HU), (muscle, MUSCLE_HU - FAT_HU)):
        cover = canvas.coverage(field)
        cover *= change
        canvas.hu += cover
    if a.thorax.breast:
        front = a.thorax.middle_y - a.thorax.half_depth - 0.45 * a.thorax.muscle
        for side, sign in enumerate(SIDES):
            for scale, hu in ((1.0, FAT_HU), (0.6, -15.0)):
                half = (
                    1.12 * a.thorax.breast * scale,
                    0.55 * a.thorax.breast * scale + 4.0,
                    1.15 * a.thorax.breast * scale,
                )
                field, where = canvas.ellipsoid((sign * 0.54 * a.thorax.half_width[side], front, -18.0), half)
                np.maximum(field, 2.0 - muscle[where], out=field)  # anterior to the muscle
                canvas.paint(canvas.coverage(field), hu, where=where)
    inside = canvas.box((0.0, a.thorax.middle_y, 0.0), (150.0, 0.5 * a.thorax.half_depth + 72.0, 190.0))
    canvas.paint(canvas.coverage(cage[inside]), MEDIASTINUM_HU, where=inside)
    return cage, muscle


def _shoulder(a: Anatomy, chest: Chest, side: int) -> tuple[float, float, float]:
    return (SIDES[side] * (a.thorax.half_width[side] + 16.0), a.thorax.middle_y + 16.0, chest.top - 40.0)


def paint_abdomen(canvas: Canvas, a: Anatomy, chest: Chest, cage: np.ndarray) -> None:
    """Paints liver, spleen and stomach with its gas bubble."""
    top, bottom = max(a.lungs.dome), min(a.lungs.dome) - 260.0
    where = canvas.box((0.0, a.thorax.middle_y, (top + bottom) / 2), (190.0, 130.0, (top - bottom) / 2))
    x, y, z = canvas.x[where], canvas.y[where], canvas.z[where[0]]
    inside = cage[where] + 3.0
    right = np.maximum(np.maximum(z - chest.diaphragm(x, y, 0) + 4.0, inside), x - 30.0 + 0.25 * (z - a.lungs.dome[0]))
    left = np.maximum(np.maximum(z - chest.diaphragm(x, y, 1) + 4.0, inside), -20.0 - x)
    canvas.paint(canvas.coverage(left), -60.0, where=where)
    canvas.paint(canvas.coverage(right), 58.0, LABELS["liver"], 35.0, where=where)
    spleen = (0.72 * a.thorax.half_width[1], a.thorax.middle_y + 0.45 * a.thorax.half_depth, a.lungs.dome[1] - 42.0)
    canvas.paint_ellipsoid(spleen, (30.0, 42.0, 34.0), 48.0, enhancement=50.0)
    stomach = (0.42 * a.thorax.half_width[1], a.thorax.middle_y - 0.1 * a.thorax.half_depth, a.lungs.dome[1] - 38.0)
    canvas.paint_ellipsoid(stomach, (a.stomach_gas[0] + 14.0, 44.0, 30.0), 25.0)
    gas = (stomach[0], stomach[1] - 8.0, a.lungs.dome[1] - 12.0 - a.stomach_gas[1])
    canvas.paint_ellipsoid(gas, (a.stomach_gas[0], 26.0, a.stomach_gas[1]), -960.0)


def paint_lungs(canvas: Canvas, a: Anatomy, chest: Chest, cage: np.ndarray, texture: np.ndarray) -> None:
    """Paints both lungs with texture, consolidation, wedges, oligaemia, effusion and nodules."""
    disease = a.disease
    for side, sign in enumerate(SIDES):
        where = canvas.box((sign * 92.0, 0.0, 0.0), (96.0, 150.0, 190.0))
        x, y, z, wall = canvas.x[where], canvas.y[where], canvas.z[where[0]], cage[where]
        cover = canvas.coverage(chest.lung(x, y, z, side, wall))
        hu = texture[where] * 28.0
        hu += a.lungs.hu[side] + 0.28 * (y - a.thorax.middle_y)  # the posterior lung of a supine patient is denser
        # the oblique fissure above the lower lobe
        fissure = z - (a.vessels.carina - 22.0) + 0.75 * (a.thorax.middle_y + 10.0 - y) * -1.0
        if disease.oligaemia and disease.oligaemia[0] == side:
            part = canvas.coverage(fissure if disease.oligaemia[1] == 0 else -fissure)
            hu -= 55.0 * part
        if disease.consolidation and disease.consolidation[0] == side:
            part = canvas.coverage(fissure if disease.consolidation[1] == 0 else -fissure)
            part *= disease.consolidation[2] * np.clip(0.85 + 0.35 * texture[where], 0.0, 1.0)
            hu += part * (20.0 - hu)
        for _, angle, height, radius in (w for w in disease.wedges if w[0] == side):
            centre_z = a.lungs.dome[side] + height * (a.lungs.apex[side] - a.lungs.dome[side]) - 12.0
            wide = a.thorax.half_width[side] * chest.narrowing(centre_z)
            at_x = sign * wide * np.cos(angle)
            at_y = chest.middle(centre_z) + chest.depth(centre_z) * np.sin(angle)
            near = np.sqrt((x - float(at_x)) ** 2 + (y - float(at_y)) ** 2 + (z - centre_z) ** 2)
            part = canvas.coverage((near - 1.4 * radius) * 0.6)
            hu += part * (0.85 * (15.0 - hu))
        fluid = None
        if disease.effusion[side] is not None:
            meniscus = 46.0 * np.clip(1.0 + wall / 42.0, 0.0, 1.0) ** 2
            fluid = canvas.coverage(z - (a.lungs.dome[side] + disease.effusion[side]) - meniscus)
            hu += fluid * (14.0 - hu)
        canvas.paint(cover, hu, LABELS["lungs"], where=where)
        if fluid is not None:
            np.copyto(canvas.labels[where], np.uint8(LABELS["fluid"]), where=np.minimum(cover, fluid) > 0.5)
    for side, seed, radius in disease.nodules:
        sign = SIDES[side]
        z = a.lungs.dome[side] + 10.0 + seed[2] * 0.75 * (a.lungs.apex[side] - a.lungs.dome[side])
        wide = a.thorax.half_width[side] * chest.narrowing(z) - radius
        centre = (sign * (0.4 + 0.5 * seed[0]) * wide, chest.middle(z) + (seed[1] - 0.5) * 1.1 * chest.depth(z), z)
        canvas.paint_ellipsoid(centre, (radius, radius * 0.92, radius * 1.05), 32.0, LABELS["lesion"], 25.0)


def paint_bones(canvas: Canvas, a: Anatomy, chest: Chest, cage: np.ndarray, muscle: np.ndarray) -> None:
    """Paints ribs with cartilage, scapulae, sternum, clavicles, shoulder joints and spine."""
    _paint_ribs(canvas, a, chest, cage)
    where = canvas.box((0.0, chest.front(40.0), 20.0), (30.0, 60.0, 130.0))
    x, y, z = canvas.x[where], canvas.y[where], canvas.z[where[0]]
    half = 15.0 + 7.0 * np.clip((z - chest.top + 75.0) / 40.0, 0.0, 1.0)
    plate = np.maximum(np.abs(x) - half, np.abs(y - chest.front(z) + 5.0) - 5.5)
    plate = np.maximum(plate, np.abs(z - chest.top + 118.0) - 85.0)
    canvas.paint(canvas.coverage(plate), 300.0, LABELS["bone"], 0.0, where=where)
    for side, sign in enumerate(SIDES):
        wide, top = a.thorax.half_width[side], chest.top
        ends = [
            (sign * 20.0, chest.front(top - 36.0) - 6.0, top - 36.0),
            (sign * 0.45 * wide, chest.front(top - 36.0) - 2.0, top - 26.0),
            (sign * 0.75 * wide, a.thorax.middle_y + 6.0, top - 14.0),
            (sign * (wide + 8.0), a.thorax.middle_y + 12.0, top - 16.0),
        ]
        canvas.paint_tube(ends, [7.0, 5.5, 5.5, 6.0], BONE_HU, LABELS["bone"], 0.0)
        canvas.paint_ellipsoid(_shoulder(a, chest, side), (21.0, 21.0, 22.0), 330.0, LABELS["bone"], 0.0)
    _paint_spine(canvas, a, chest, muscle)


def _paint_ribs(canvas: Canvas, a: Anatomy, chest: Chest, cage: np.ndarray) -> None:
    spots = np.flatnonzero((cage > -6.0) & (cage < 24.0))
    x, y, distance = (np.take(values, spots) for values in (canvas.x, canvas.y, cage))
    layer = spots // (canvas.size[1] * canvas.size[2])  # terms of z alone, once per layer
    z, middle, depth, narrowing = (
        np.take(values, layer)
        for values in (canvas.z, chest.middle(canvas.z), chest.depth(canvas.z), chest.narrowing(canvas.z))
    )
    wide = np.abs(x)
    forward = (middle - y) / depth  # -1 at the back, 1 at the front
    height = z + a.skeleton.rib_drop * 0.5 * (forward + 1.0) - (chest.top + 2.0)
    number = -height / a.skeleton.rib_pitch
    hoop = np.abs(number - np.floor(number) - 0.5) * a.skeleton.rib_pitch - 5.6
    rib = np.maximum(hoop, np.abs(distance - 5.0) - 4.2)
    rib = np.maximum(rib, np.maximum(height, -(height + 11.0 * a.skeleton.rib_pitch)))
    rib = np.maximum(rib, 14.0 - wide)
    bony = np.clip((wide - 0.21 * sum(a.thorax.half_width) * narrowing) / 12.0, 0.0, 1.0)
    bony = np.maximum(bony, np.clip(-4.0 * forward, 0.0, 1.0))
    scapula = np.maximum(np.abs(distance - 15.0) - 3.0, middle + 8.0 - y)
    down = chest.top - 18.0 - z
    border = 0.30 * sum(a.thorax.half_width) + 0.16 * down
    scapula = np.maximum(scapula, np.maximum(border - wide, np.maximum(-down, down - 125.0)))
    canvas.paint(canvas.coverage(scapula), 350.0, LABELS["bone"], 0.0, spots)
    canvas.paint(canvas.coverage(rib), 110.0 + (BONE_HU - 110.0) * bony, LABELS["bone"], 0.0, spots)


def _paint_spine(canvas: Canvas, a: Anatomy, chest: Chest, muscle: np.ndarray) -> None:
    where = canvas.box((0.0, a.thorax.middle_y + 0.85 * a.thorax.half_depth, 0.0), (70.0, 75.0, 185.0))
    x, y, z = canvas.x[where], canvas.y[where], canvas.z[where[0]]
    centre_x, centre_y = chest.spine(z)
    dx, dy = x - centre_x, y - centre_y
    r, pitch = a.skeleton.vertebra, 1.42 * a.skeleton.vertebra
    across = np.abs(dx)
    body = muscle[where]
    around = np.sqrt((dx * 0.8) ** 2 + (dy - 8.0) ** 2) - (r + 13.0)
    canvas.paint(canvas.coverage(np.maximum(around, body)), MUSCLE_HU, None, 0.0, where=where)
    phase = np.abs(z / pitch - np.floor(z / pitch) - 0.5) * pitch  # mm from the middle of a vertebra
    column = np.sqrt((dx * 0.87) ** 2 + dy * dy) - r
    hu = np.where(phase > 0.5 * pitch - 3.0, 90.0, 170.0 + 20.0 * np.clip(column + 9.0, 0.0, 9.0))
    canvas.paint(canvas.coverage(column), hu, LABELS["bone"], 0.0, where=where)
    arch = np.abs(np.sqrt(dx * dx + (dy - r - 9.0) ** 2) - 11.0) - 3.0
    process = np.maximum(np.maximum(across - 3.6, np.abs(dy - r - 27.0) - 13.0), phase - 0.34 * pitch)
    wings = np.maximum(np.maximum(across - 31.0, np.abs(dy - r - 6.0 - 0.2 * across) - 5.0), phase - 6.0)
    bone = np.maximum(np.minimum(np.minimum(arch, process), wings), body + 3.0)
    canvas.paint(canvas.coverage(bone), 380.0, LABELS["bone"], 0.0, where=where)
    canal = np.sqrt(dx * dx + (dy - r - 9.0) ** 2) - 8.0
    cover = canvas.coverage(canal)
    canvas.paint(cover, 30.0, where=where)
    canvas.labels[where][cover > 0.5] = 0


def paint_airways(canvas: Canvas, a: Anatomy, chest: Chest) -> None:
    """Paints the wall and the air of trachea and main bronchi."""
    y, c = chest.middle(a.vessels.carina) + 22.0, a.vessels.carina
    fork = np.array([2.0, y, c]) + 0.5 * a.vessels.jitter[7]
    paths = (
        ([(1.0, y - 4.0, 190.0), (1.0, y - 3.0, c + 45.0), fork], (9.0, 8.5, 8.5)),
        ([fork, fork + (-20.0, 1.0, -20.0), fork + (-38.0, 4.0, -38.0)], (7.5, 7.0, 5.5)),
        ([fork, fork + (22.0, 2.0, -17.0), fork + (42.0, 6.0, -30.0)], (7.0, 6.5, 5.0)),
    )
    for wall, hu, label in ((2.0, 20.0, None), (0.0, -985.0, LABELS["airway"])):
        for points, radii in paths:
            canvas.paint_tube(points, np.asarray(radii) + wall, hu, label, 0.0)
