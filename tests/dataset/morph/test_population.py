"""Laws of morphs: HU, lungs, margins, parents, determinism."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from chest_files import thorax
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from dataset.imaging.coverage import NOT_SCANNED_HU
from dataset.imaging.lung_segmentation import segment_lungs
from dataset.imaging.volume import Volume
from dataset.morph.anatomy import describe_anatomy
from dataset.morph.pairs import neighbours_of, pairs_of
from dataset.morph.population import Recipe, draw_recipe, make_morph
from dataset.morph.random_change import smooth_noise
from dataset.morph.registration import FIELD
from dataset.morph.settings import MorphSettings

STILL = MorphSettings(
    smooth_mm=(0, 0), affine=0, size=0, organs_mm=0, wall=0, lung_density=0, bone_density=0, contrast=(1, 1)
)


@pytest.fixture(scope="module")
def anatomies():
    found = {}
    for i, name in enumerate("ab"):
        hu = gaussian_filter(thorax((60, 52, 64), seed=i).astype(np.float32), 0.7)
        hu[:, :, : 6 * i] = -1000.0
        hu[-4:] = NOT_SCANNED_HU if name == "b" else hu[-4:]
        found[name] = describe_anatomy(Volume(hu, (5.0, 5.0, 5.0)), name)
    return found


def _no_velocity(first, second):
    return None


def _make(anatomies, settings, index, recipe=None, velocity=_no_velocity):
    return make_morph(recipe or Recipe("a", {}), anatomies.__getitem__, velocity, settings, (0, index))


def test_a_morph_without_any_change_is_its_tissue(anatomies):
    volume, scanned, _ = _make(anatomies, STILL, 0)
    tissue = anatomies["a"].tissue
    assert volume.hu.shape == tuple(tissue.shape[1:])
    np.testing.assert_allclose(volume.hu, tissue[0].float().numpy(), atol=1)
    np.testing.assert_allclose(volume.spacing, 5.0, rtol=1e-5)
    assert scanned.all()


def test_morphs_differ_by_index_and_repeat_by_seed(anatomies):
    first, again, other = (_make(anatomies, MorphSettings(), i)[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(first.hu, again.hu)
    assert first.spacing != other.spacing


@pytest.mark.parametrize("index", range(4))
def test_a_morph_has_lungs_with_the_margins_of_its_tissue(anatomies, index):
    volume, *_ = _make(anatomies, MorphSettings(), index)
    lungs = segment_lungs(volume.hu, volume.spacing)
    assert lungs.any()
    margins = anatomies["a"].margins
    for axis, (n, s) in enumerate(zip(volume.hu.shape, volume.spacing, strict=True)):
        found = np.flatnonzero(lungs.any(axis=tuple(k for k in range(3) if k != axis)))
        assert abs(found[0] * s - margins[0, axis]) < 12
        assert abs((n - 1 - found[-1]) * s - margins[1, axis]) < 12


def test_hu_stay_those_of_the_tissue_where_density_stays(anatomies):
    settings = MorphSettings(lung_density=0, bone_density=0, contrast=(1, 1))
    volume, *_ = _make(anatomies, settings, 3)
    tissue = anatomies["a"].tissue[0].float()
    assert tissue.min() - 2 <= volume.hu.min() and volume.hu.max() <= tissue.max() + 2


def test_density_changes_lung_and_neither_air_nor_soft_tissue(anatomies):
    plain = _make(anatomies, STILL, 5)[0].hu
    dense = _make(anatomies, MorphSettings(**{**STILL.describe(), "lung_density": 0.3}), 5)[0].hu
    changed = np.abs(plain - dense) > 5
    assert (plain[changed] < -400).all() and changed.sum() > 1000
    assert (np.abs(plain[plain < -990] - dense[plain < -990]) < 5).all()


def test_not_scanned_voxels_of_the_tissue_stay_unknown(anatomies):
    _, scanned, _ = _make(anatomies, STILL, 0, Recipe("b", {}))
    assert not scanned[-3:].any() and scanned[3:-8].mean() > 0.9


def test_iodine_scales_with_contrast_and_its_volume_is_that_of_the_anatomy(anatomies):
    own = anatomies["a"]
    bright = own.tissue.clone()
    bright[1] = 0.0
    bright[0, 20:30, 20:26, 28:36] = bright[1, 20:30, 20:26, 28:36] = 400.0
    enhanced = {"a": replace(own, tissue=bright)}
    full = _make(enhanced, STILL, 0)
    half = _make(enhanced, replace(STILL, contrast=(0.5, 0.5)), 0)
    none = _make(enhanced, replace(STILL, contrast=(0, 0)), 0)
    voxels = 10 * 6 * 8
    assert full.iodine_ml == pytest.approx(voxels * 0.125, rel=0.01) and none.iodine_ml == 0.0
    change = (full.volume.hu - half.volume.hu)[20:30, 20:26, 28:36]
    np.testing.assert_allclose(change, 200.0, atol=1)


def test_velocities_between_patients_move_the_lungs(anatomies):
    way = smooth_noise(np.random.default_rng(1), 3, 4) * 0.05
    recipe = Recipe("a", {"b": 1.0})
    moved = _make(anatomies, STILL, 0, recipe, lambda first, second: way)[0]
    assert moved.hu.shape != _make(anatomies, STILL, 0)[0].hu.shape or moved.spacing != (5.0, 5.0, 5.0)


def test_a_volume_without_lungs_is_refused_by_name():
    with pytest.raises(UserError, match="abdomen.nii: no lungs found"):
        describe_anatomy(Volume(np.full((20, 20, 20), 30.0, np.float32), (5.0, 5.0, 5.0)), "abdomen.nii")


@pytest.mark.parametrize("count", [2, 3, 7, 20])
@pytest.mark.parametrize("neighbours", [1, 4, 6])
def test_neighbours_are_mutual_enough_and_connected(count, neighbours):
    names = [f"p{i:02d}" for i in range(count)]
    found = neighbours_of(names, neighbours, 0)
    assert all(len(others) >= min(neighbours, count - 1) and name not in others for name, others in found.items())
    assert all(name in found[other] for name in names for other in found[name])
    reached, edge = {names[0]}, [names[0]]
    while edge:
        edge = [other for name in edge for other in found[name] if other not in reached]
        reached |= set(edge)
    assert reached == set(names)
    assert set(pairs_of(found)) == {tuple(sorted((a, b))) for a, b in combinations(names, 2) if b in found[a]}


def test_recipes_use_neighbours_in_the_given_range():
    settings = MorphSettings(towards=(0.2, 0.9))
    neighbours = neighbours_of([f"p{i}" for i in range(7)], 4, 0)
    recipes = [draw_recipe(neighbours, settings, 3, i) for i in range(300)]
    assert {recipe.tissue for recipe in recipes} == set(neighbours)
    assert all(set(recipe.towards) <= set(neighbours[recipe.tissue]) for recipe in recipes)
    assert all(0.2 <= sum(recipe.towards.values()) <= 0.9 for recipe in recipes)
    assert recipes[5] == draw_recipe(neighbours, settings, 3, 5)


def test_smooth_noise_has_unit_deviation_and_is_smooth():
    field = smooth_noise(np.random.default_rng(0), 3, 4)
    assert field.shape == (3, *FIELD)
    assert float(field.std()) == pytest.approx(1.0, abs=0.01)
    assert torch.diff(field, dim=1).abs().mean() < 0.15


def test_a_strength_below_zero_is_refused():
    with pytest.raises(UserError, match=r"dataset.morph.wall=-1"):
        MorphSettings(wall=-1)
