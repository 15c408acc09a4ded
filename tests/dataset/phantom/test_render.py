"""Laws of the phantom population: determinism, anatomy, emboli and their radiographic signs."""

import time
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from dataset.phantom.anatomy import Disease
from dataset.phantom.render import LABELS, draw_for_xrays, render_phantom

SMALL = (32, 32, 32)
PATIENTS = range(16)


@lru_cache(maxsize=64)
def patient(index, **options):
    return render_phantom(index, **options)


def where(phantom, name):
    return phantom.labels == LABELS[name]


def litres(phantom, name):
    return where(phantom, name).sum() * np.prod(phantom.spacing) / 1e6


def test_the_same_seed_and_index_give_the_same_patient():
    first, again = (render_phantom(5, seed=3, size=SMALL) for _ in range(2))
    for name in ("hu", "hu_plain", "labels"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert first.label == again.label


def test_every_seed_and_index_is_another_patient():
    bodies = [render_phantom(i, seed=s, size=SMALL) for s, i in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]]
    for i, one in enumerate(bodies):
        for other in bodies[:i]:
            assert (one.labels != other.labels).mean() > 0.02  # another anatomy, not only other noise


def test_shapes_types_and_range():
    phantom = render_phantom(0, size=(24, 32, 40), extent=(300.0, 240.0, 340.0))
    for volume in (phantom.hu, phantom.hu_plain):
        assert volume.shape == (24, 32, 40) and volume.dtype == np.float32
        assert -1100 < volume.min() < -950 and 300 < volume.max() < 1200
    assert phantom.labels.dtype == np.uint8 and set(np.unique(phantom.labels)) <= {0, *LABELS.values()}
    assert phantom.spacing == pytest.approx((12.5, 7.5, 8.5))


@pytest.mark.parametrize("index", [1, 2, 8])
def test_the_patient_is_the_same_at_any_resolution(index):
    coarse, fine = (patient(index, size=(n, n, n), pe_share=0.0) for n in (48, 96))
    blocks = fine.hu_plain.reshape(48, 2, 48, 2, 48, 2).mean(axis=(1, 3, 5))
    assert abs(blocks.mean() - coarse.hu_plain.mean()) < 5
    assert np.sqrt(np.mean((blocks - coarse.hu_plain) ** 2)) < 60  # edges; the volume spans 1500 HU
    for name, tolerance in {"lungs": 0.04, "heart": 0.08, "liver": 0.04, "bone": 0.15}.items():
        assert litres(coarse, name) == pytest.approx(litres(fine, name), rel=tolerance)


@pytest.mark.parametrize(("size", "bias", "error"), [(32, 4.0, 15.0), (64, 1.5, 8.0)])
def test_xrays_show_the_same_patient_as_the_case_on_finer_voxels(size, bias, error, monkeypatch):
    """Block means of the finer drawing differ from the case by partial volumes, less with smaller voxels."""
    monkeypatch.setattr("dataset.phantom.render.NOISE_HU", 0.0)
    options = {"size": (size,) * 3, "pe_share": 1.0}
    coarse, other = (render_phantom(index, **options).hu_plain for index in (2, 3))
    fine = draw_for_xrays(2, **options)
    assert fine.hu.shape == (2 * size,) * 3 and fine.hu.dtype == np.float32
    assert fine.extent == pytest.approx((320.0, 256.0, 352.0))
    cells = fine.hu.reshape(size, 2, size, 2, size, 2)
    blocks = cells.mean(axis=(1, 3, 5))
    assert abs((blocks - coarse).mean()) < bias
    within = np.abs(cells - blocks[:, None, :, None, :, None]).mean()
    assert np.abs(blocks - coarse).mean() < min(error, 0.3 * within)  # the finer drawing does add detail
    assert np.abs(other - coarse).mean() > 100
    flat = np.abs(np.stack(np.gradient(coarse))).max(axis=0) < 20
    assert np.abs(blocks - coarse)[flat].mean() < 1.0  # away from edges it is the same tissue


def test_xrays_show_lesions_but_no_noise_of_a_ct(monkeypatch):
    options = {"size": SMALL, "pe_share": 0.0}
    clean = draw_for_xrays(3, **options).hu
    monkeypatch.setattr("dataset.phantom.render.NOISE_HU", 500.0)
    assert np.array_equal(draw_for_xrays(3, **options).hu, clean)
    nodule = Disease(nodules=[(0, [0.5, 0.5, 0.5], 15.0)])
    well, sick = (draw_for_xrays(3, 0, SMALL, disease=disease).hu for disease in (Disease(), nodule))
    assert ((sick - well) > 400).sum() * (10 * 8 * 11 / 8) > 0.5 * 4 / 3 * np.pi * 15.0**3


def test_tissues_have_the_sizes_and_the_density_of_a_chest():
    for index in PATIENTS:
        phantom = patient(index)
        assert 0.8 < litres(phantom, "lungs") < 6.5
        assert 0.25 < litres(phantom, "heart") < 1.9
        assert 0.3 < litres(phantom, "bone") < 3.0
        assert 0.005 < litres(phantom, "airway") < 0.15
        assert 0.04 < litres(phantom, "arteries") < 0.4
        inner = ndimage.binary_erosion(where(phantom, "lungs"))
        assert -950 < np.median(phantom.hu[inner]) < -700
        assert np.median(phantom.hu[where(phantom, "bone")]) > 150
        assert 280 < np.median(phantom.hu[where(phantom, "arteries")]) < 480
        assert 35 < np.median(phantom.hu_plain[where(phantom, "liver")]) < 75
        assert np.allclose(phantom.hu[:, 0, 0], -1000, atol=40) or index  # a corner of the field is air


def test_the_heart_and_the_stomach_lie_left_the_liver_right_the_spine_behind():
    for index in PATIENTS:
        phantom = patient(index)
        lungs = np.argwhere(where(phantom, "lungs"))
        middle = (lungs.min(axis=0) + lungs.max(axis=0)) / 2

        def centre(name, phantom=phantom):
            return np.argwhere(where(phantom, name)).mean(axis=0)

        heart, liver = centre("heart"), centre("liver")
        assert heart[2] > middle[2] > liver[2]  # W grows toward the patient's left
        assert heart[1] < middle[1] + 3 and heart[0] < middle[0] + 4  # before the middle, low
        assert liver[0] < heart[0]
        assert centre("airway")[0] > heart[0]
        bone = phantom.labels[:, :, int(round(middle[2])) - 3 : int(round(middle[2])) + 4] == LABELS["bone"]
        assert np.argwhere(bone).mean(axis=0)[1] > middle[1]


def test_the_right_dome_is_usually_higher_and_the_lungs_are_unequal():
    higher, ratio = [], []
    for index in range(40):
        phantom = patient(index, size=SMALL)
        halves = np.split(where(phantom, "lungs") | where(phantom, "fluid"), 2, axis=2)
        lowest = [np.argwhere(half.sum(axis=(1, 2)) > 8)[0, 0] for half in halves]
        higher.append(lowest[0] - lowest[1])
        ratio.append(halves[0].sum() / halves[1].sum())
    assert np.mean(higher) > 0
    assert np.std(ratio) > 0.1


def test_lungs_and_all_organs_lie_inside_the_body():
    for index in PATIENTS:
        phantom = patient(index, size=SMALL)
        body = phantom.hu_plain > -500
        for slab, organs in zip(body, phantom.labels > 0, strict=True):
            padded = np.pad(slab, ((0, 0), (1, 1)), constant_values=True)  # the field may cut a wide patient
            filled = ndimage.binary_fill_holes(padded)[:, 1:-1] | slab
            assert (organs & ~filled).sum() <= 0.01 * organs.size


def test_there_are_two_lungs_with_many_vessels_in_them():
    for index in (0, 3, 4):
        phantom = patient(index, size=(96, 96, 96), pe_share=0.0)
        pieces, count = ndimage.label(where(phantom, "lungs"))
        sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
        assert count >= 2 and sizes[1] > 0.3 * sizes[0] and sizes[:2].sum() > 0.97 * sizes.sum()
        assert (where(phantom, "vessels")).sum() > 400


def test_ribs_are_ten_hoops_or_so():
    phantom = patient(1, size=(128, 64, 64), pe_share=0.0)
    lungs = np.argwhere(where(phantom, "lungs"))
    row = int(np.median(lungs[:, 1]))
    bone = (phantom.labels[:, row] == LABELS["bone"])[:, : lungs[:, 2].min() + 4].any(axis=1)
    assert 7 <= ndimage.label(bone)[1] <= 13


def test_the_share_of_emboli_follows_the_option():
    for share, count in ((0.0, 20), (0.3, 200), (1.0, 20)):
        found = np.mean([render_phantom(i, size=(8, 8, 8), pe_share=share).label for i in range(count)])
        assert abs(found - share) <= 3.5 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("size", [(48, 48, 48), (64, 64, 64), (80, 64, 72)])
def test_clots_are_dark_defects_inside_arteries_and_two_voxels_wide(size):
    for index in range(8):
        sick = render_phantom(index, size=size, pe_share=1.0, sign_rate=0.0)
        well = render_phantom(index, size=size, pe_share=0.0)
        clots = where(sick, "clots")
        assert sick.label == 1 and well.label == 0 and clots.any() and not where(well, "clots").any()
        assert (where(well, "arteries") | where(well, "heart"))[clots].all()
        assert sick.hu[clots].mean() < 160 < 280 < np.percentile(sick.hu[where(sick, "arteries")], 90)
        pieces, count = ndimage.label(clots, structure=np.ones((3, 3, 3)))
        for box in ndimage.find_objects(pieces):
            assert all(side.stop - side.start >= 2 for side in box), [side.stop - side.start for side in box]
            assert (pieces[box] > 0).sum() >= 8


def test_an_x_ray_sees_neither_contrast_nor_clots():
    for index in range(8):
        sick = render_phantom(index, pe_share=1.0, sign_rate=0.0)
        well = render_phantom(index, pe_share=0.0)
        assert np.array_equal(sick.hu_plain, well.hu_plain)
        bright = sick.hu - sick.hu_plain > 50
        assert bright.sum() > 1000
        beside_bone = ndimage.binary_dilation(where(sick, "bone"), iterations=2)  # shares voxels with it
        blood = sick.hu_plain[bright & ~beside_bone]
        assert np.median(blood) <= 60 and blood.max() <= 60 + 6 * 14  # noise has a standard deviation of 14 HU


def test_signs_change_the_x_ray_of_the_sick_alone():
    changed = 0
    for index in range(12):
        for share in (0.0, 1.0):
            without, with_signs = (
                render_phantom(index, size=SMALL, pe_share=share, sign_rate=rate) for rate in (0.0, 1.0)
            )
            difference = np.abs(without.hu_plain - with_signs.hu_plain).max()
            if share == 0:
                assert difference == 0
            else:
                changed += difference > 100
    assert changed >= 9


def test_patients_differ_from_their_mean():
    volumes = np.stack([patient(i, size=SMALL).hu.clip(-1000, 1000) for i in range(60)])
    mean = volumes[:40].mean(axis=0)
    psnr = 10 * np.log10(2000**2 / ((volumes[40:] - mean) ** 2).mean(axis=(1, 2, 3)))
    assert 13 < psnr.mean() < 19


def test_noise_is_modest():
    phantom = patient(0)
    inside = ndimage.binary_erosion(where(phantom, "liver"), iterations=2)
    assert 8 < phantom.hu_plain[inside].std() < 20


def test_rendering_is_quick():
    render_phantom(0)
    times = []
    for index in range(7):
        start = time.process_time()
        render_phantom(index)
        times.append(time.process_time() - start)
    assert np.median(times) < 0.25  # 0.03 to 0.05 s on an idle core


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": (64, 64)}, "size"),
        ({"size": (64, 64, 4)}, "size"),
        ({"extent": (320.0, 0.0, 352.0)}, "extent"),
        ({"pe_share": 1.5}, "pe_share"),
        ({"sign_rate": -0.1}, "sign_rate"),
        ({"index": -1}, "index"),
    ],
)
def test_invalid_input_is_rejected(options, words):
    with pytest.raises(ValueError, match=words):
        render_phantom(**{"index": 0, **options})
