"""Lungs on real films: those of the generated volume, projected onto the film, and those that the lung network finds.

The projected lung of several volumes is where rays cross on average at least `ABOVE_MM` of lung above the dome of the
diaphragm, along which people draw the outline, or `LUNG_MM` in all; also behind the heart. It ends where less than
`SHARE` of the way through the chest cavity is lung: people draw the border of the mediastinum, although thin lung in
front of the spine and of the heart reaches further.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, UnidentifiedImageError
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError
from common.files import atomic_path, sha256, visible, write_json
from dataset.imaging.drr import line_integrals
from dataset.imaging.forward_model import MU_WATER
from dataset.imaging.geometry import fill_unknown
from dataset.imaging.hu_window import AIR_HU
from dataset.imaging.lung_network import SHIPPED
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.patient_mask import slice_hulls
from dataset.imaging.unknown_pixels import split_unknown
from dataset.io.xray import read_xray, read_xray_image, scale_xray_image, undo_resize
from dataset.xray.domes import OUTER, above_dome, split_lungs
from dataset.xray.film_lungs import find_film_lungs
from dataset.xray.lung_alignment import LungMap
from evaluation.generation.metadata import NOISE_ID, describe_run
from evaluation.generation.model_inputs import ModelInputs
from evaluation.generation.sample import Sampling, sample_volumes
from evaluation.generation.xray_inputs import GeneratorInput, announce
from evaluation.visualization.slices import xray_grey

MASK = "_lungs"  # suffix of the names of masks
ABOVE_MM, LUNG_MM = 10.0, 25.0  # smallest depth of projected lung; chosen on seven films and on DRRs
SHARE = 0.15  # smallest share of lung in the cavity, the convex hull of both lungs; chosen on the same seven films
SIDE = 256  # pixels of the projection and of the film for the network
MAX_VOXELS = 64  # along each axis of a segmented volume: the lungs of finer ones take seconds and hardly differ
TILE, COLUMNS = 320, 7  # pixels of a film in the sheet, films in a row
COLOURS = {"human": (0, 220, 0), "volume": (255, 60, 60), "network": (90, 150, 255)}


@dataclass(frozen=True)
class Film:
    """A film and its human lung mask."""

    name: str
    path: Path
    lungs: Bool[np.ndarray, "h w"]


def find_films(folder: str | Path | None) -> list[Film]:
    """Films `<name>.png` with masks `<name>_lungs.png` in a folder, by name.

    UserError for no folder, no film with a mask, or a mask that is damaged, empty or not of the film's size.
    """
    if not folder or not Path(folder).is_dir():
        raise UserError(f"films={folder}: no such folder; give one with <name>.png and <name>{MASK}.png")
    films = []
    for mask in visible(Path(folder).glob(f"*{MASK}.png")):
        path = mask.with_name(mask.name.replace(f"{MASK}.png", ".png"))
        if not path.is_file():
            raise UserError(f"{mask}: its film {path.name} is missing; add it, or remove the mask")
        films.append(Film(path.stem, path, _read_mask(mask, read_xray_image(path).image.shape)))
    if not films:
        raise UserError(f"films={folder}: no film with a mask; name masks <name>{MASK}.png beside <name>.png")
    return films


def score_films(
    pipeline,
    films: Sequence[Film],
    inputs: Sequence[GeneratorInput],
    output: Path,
    sampling: Sampling,
    checkpoint: Path | None = None,
) -> str:
    """Generates a volume for each film, writes films.csv, metrics.json and films.png, and returns the result lines.

    `inputs` are the films as the generator takes them. The noise is that of `evaluation/generate.py`.
    """
    announce(inputs)
    ids = [NOISE_ID] * len(films)
    rows, tiles, before = [], [], None
    for part, volumes in sample_volumes(pipeline, ModelInputs.of_inputs(inputs), ids, sampling):
        for index, samples in zip(part, volumes, strict=True):
            film, given = films[index], inputs[index]
            volume = lungs_on_film(samples, given, pipeline.pose_regressor, film.lungs.shape)
            network = network_mask(film)
            found = {"volume": volume, "network": network}
            scores = {f"{name}_dice": dice(mask, film.lungs) for name, mask in found.items()}
            other = None if before is None else _of_another(pipeline, before, film, given)
            rows.append({"film": film.name, "view": given.notes.get("view"), **scores, "other_dice": other})
            tiles.append(_tile(film, {"human": film.lungs, **found}, scores))
            before = samples
    rows[0]["other_dice"] = None if len(films) == 1 else _of_another(pipeline, before, films[0], inputs[0])
    table = pd.DataFrame(rows)
    result = {
        "films": len(table),
        **{
            name: {"median": float(table[column].median()), "worst": float(table[column].min())}
            for name, column in (("volume_lungs", "volume_dice"), ("film_mask", "network_dice"))
        },
        "volume_lungs_of_another_film": None if len(films) == 1 else float(table["other_dice"].median()),
        "lung_mm": {"above_dome": ABOVE_MM, "whole": LUNG_MM},
        "lung_share": SHARE,
        "lung_network_sha256": sha256(SHIPPED),
        "run": describe_run(pipeline, checkpoint, sampling),
    }
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "films.csv") as temporary:
        table.round(4).to_csv(temporary, index=False)
    write_json(output / "metrics.json", result)
    _sheet(tiles).save(output / "films.png")
    parts = [f"median {result[key]['median']:.2f}, worst {result[key]['worst']:.2f}"
             for key in ("volume_lungs", "film_mask")]  # fmt: skip
    other = result["volume_lungs_of_another_film"]
    control = "" if other is None else f"lungs of the volumes of another film: median {other:.2f}\n"
    return f"{control}volume lungs: {parts[0]}; film mask: {parts[1]}"


def _of_another(pipeline, volumes: Float[Tensor, "n d h w"], film: Film, given: GeneratorInput) -> float:
    """Dice of the lungs of another film's volumes in place of this film's: what the alignment alone gives."""
    return dice(lungs_on_film(volumes, given, pipeline.pose_regressor, film.lungs.shape), film.lungs)


def lungs_on_film(
    volumes: Float[Tensor, "n d h w"], given: GeneratorInput, regressor, shape: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Mask of the lungs of the samples of a film, projected onto it (`shape` pixels), before any alignment.

    `regressor` estimates the pose of the X-ray; None takes the nominal one.
    """
    inside, alignment = _projected(volumes, given, regressor), alignment_of(given)
    if alignment is not None:
        inside, _ = split_unknown(alignment.inverse.apply(inside))
    return (undo_resize(inside, shape) >= 0.5).numpy()


def lungs_on_xray(
    volumes: Float[Tensor, "n d h w"], given: GeneratorInput, regressor
) -> tuple[Bool[np.ndarray, "s s"], Bool[np.ndarray, "s s"]]:
    """Masks of `SIDE` pixels in the frame of `given.picture`: the lungs of the samples, and those of the X-ray.

    The first are projected as in `lungs_on_film`, the second found by the lung network before the alignment. A mask is
    empty if there are no lungs.
    """
    found, alignment = find_film_lungs(given.original).mask((SIDE, SIDE)).float(), alignment_of(given)
    if alignment is not None:
        found, _ = split_unknown(alignment.apply(found))
    return tuple((mask >= 0.5).numpy() for mask in (_projected(volumes, given, regressor), found))


def _projected(volumes: Float[Tensor, "n d h w"], given: GeneratorInput, regressor) -> Float[Tensor, "s s"]:
    """Mean depth of the lungs along the rays of `given.xray`, in [0, 1]; 0.5 is the border of the projected lung."""
    coarse = F.interpolate(volumes[None], size=[min(n, MAX_VOXELS) for n in volumes.shape[1:]], mode="area")[0]
    spacing = tuple(e / n for e, n in zip(given.extent, coarse.shape[1:], strict=True))
    pose, parts = pose_of(given, regressor), [_lung_parts(hu.numpy(), spacing) for hu in coarse]
    above, whole, cavity = (
        line_integrals(torch.from_numpy(np.mean(masks, axis=0, dtype=np.float32) - 1.0) * -AIR_HU, spacing, pose,
                       (SIDE, SIDE)) / MU_WATER
        for masks in zip(*parts, strict=True)
    )  # fmt: skip
    depth = torch.minimum(torch.maximum(above / ABOVE_MM, whole / LUNG_MM), whole / (SHARE * cavity).clamp(min=1.0))
    return (depth / 2).clamp(0.0, 1.0)


def _lung_parts(hu: Float[np.ndarray, "d h w"], spacing: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Masks of the lungs above the domes of the diaphragm, of all lung, and of the cavity that both lungs span.

    With fewer than two lungs there are no domes, and all of the lung counts as above them.
    """
    whole = segment_lungs(hu, spacing)
    sides, cavity = split_lungs(whole), slice_hulls(whole)
    if sides is None:
        return whole, whole, cavity
    right, left = (above_dome(side, outer) for side, outer in zip(sides, OUTER, strict=True))
    return right | left, whole, cavity


def pose_of(given: GeneratorInput, regressor) -> Float[Tensor, "9"]:
    """Pose of the first view in the frame of `given.xray`: known, estimated by `regressor`, or nominal."""
    pose = fill_unknown(given.pose, tuple(given.extent))
    if regressor is not None:
        arguments = given.xray[None, :, None], pose[None]
        pose = regressor.estimated_pose(*(part.to(regressor.weight.device) for part in arguments))[0].cpu()
    return pose[0]


def alignment_of(given: GeneratorInput) -> LungMap | None:
    """The map of the X-ray onto `given.xray`; None for one that is not aligned."""
    notes = given.notes.get("alignment", {})
    return LungMap(tuple(notes["found"]), tuple(notes["target"])) if notes.get("align") == "lungs" else None


def network_mask(film: Film) -> Bool[np.ndarray, "h w"]:
    """The lungs that the lung network finds in a film."""
    lungs = find_film_lungs(read_xray(film.path, (SIDE, SIDE)))
    return (undo_resize(lungs.mask((SIDE, SIDE)).float(), film.lungs.shape) >= 0.5).numpy()


def dice(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Dice coefficient of two masks, of which at least one is not empty."""
    return float(2.0 * (a & b).sum() / (a.sum() + b.sum()))


def _read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            size = picture.size[::-1]
            if size != tuple(shape):
                raise UserError(f"{path}: {size[1]}x{size[0]} pixels, its film has {shape[1]}x{shape[0]}; "
                                "draw the mask on the film")  # fmt: skip
            mask = np.asarray(picture.convert("L")) > 127
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a PNG or damaged ({error}); write the mask again") from error
    if not mask.any():
        raise UserError(f"{path}: the mask is empty; mark the lungs with 255")
    return mask


def _tile(film: Film, masks: dict[str, np.ndarray], scores: dict[str, float]) -> Image.Image:
    grey = xray_grey(scale_xray_image(read_xray_image(film.path)))
    picture = np.repeat(grey[..., None], 3, axis=2)
    thick = max(1, max(grey.shape) // 200)
    for name, mask in masks.items():
        picture[mask & ~ndimage.binary_erosion(mask, iterations=thick, border_value=1)] = COLOURS[name]
    image = Image.fromarray(picture)
    image.thumbnail((TILE, TILE))
    tile = Image.new("RGB", (TILE, TILE + 16))
    tile.paste(image, ((TILE - image.width) // 2, 0))
    text = f"{film.name[:26]}  {scores['volume_dice']:.2f}  {scores['network_dice']:.2f}"
    ImageDraw.Draw(tile).text((4, TILE + 2), text, fill=(230, 230, 230))
    return tile


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    rows, columns = -(-len(tiles) // COLUMNS), min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * TILE, rows * (TILE + 16) + 18))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % COLUMNS * TILE, i // COLUMNS * (TILE + 16)))
    x = 4
    for name, colour in COLOURS.items():
        ImageDraw.Draw(sheet).text((x, sheet.height - 15), name, fill=colour)
        x += 70
    return sheet
