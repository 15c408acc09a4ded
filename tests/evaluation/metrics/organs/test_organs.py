"""Shape of organs and measures of the thorax against closed forms: shifted and scaled masks, drawn lungs."""

import numpy as np
import pytest
import torch

from dataset.imaging.hu_window import Window
from dataset.phantom.render import render_phantom
from evaluation.metrics.base import CaseView
from evaluation.metrics.catalogue import catalogue, measure
from evaluation.metrics.organs import shape, thorax, totalsegmentator
from evaluation.scoring.score_cases import score_case

SPACING = (2.0, 3.0, 4.0)
WIDE = Window(-1000.0, 1000.0)


def block(d=(8, 20), h=(6, 18), w=(5, 21), size=(32, 28, 30)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[slice(*d), slice(*h), slice(*w)] = True
    return mask


@pytest.mark.parametrize(("axis", "steps"), [(0, 3), (1, -2), (2, 4)])
def test_a_shift_moves_centroid_and_surface_by_its_millimetres(axis, steps):
    truth = block()
    moved = truth.roll(steps, dims=axis)
    expected = abs(steps) * SPACING[axis]
    assert shape.centroid_shift(moved, truth, SPACING) == pytest.approx(expected)
    assert shape.hausdorff_95(moved, truth, SPACING) == pytest.approx(expected)
    assert shape.volume_error(moved, truth, SPACING) == 0.0


def test_a_larger_mask_has_the_error_of_its_volume():
    assert shape.volume_error(block(d=(8, 23)), block(), SPACING) == pytest.approx(25.0)
    assert shape.hausdorff_95(block(), block(), SPACING) == shape.centroid_shift(block(), block(), SPACING) == 0.0


def test_an_empty_mask_lacks_all_of_the_volume_and_has_no_place():
    case = {"ct": torch.where(block(), 40.0, -1000.0), "spacing": torch.tensor(SPACING)}
    names = [f"body_{name}" for name in shape.MEASURES]
    values, _ = measure(names, CaseView(case, torch.full((1, *case["ct"].shape), -1000.0), WIDE))
    assert values.pop("body_volume_error") == 100.0 and np.isnan(list(values.values())).all()


def test_diaphragms_rise_with_the_base_of_each_lung():
    lungs = block(d=(6, 30), w=(2, 12)) | block(d=(9, 30), w=(17, 28))
    assert thorax.diaphragm_heights(lungs, SPACING).tolist() == [12.0, 18.0]
    raised = lungs.clone()
    raised[:11] = False
    assert thorax.diaphragm_heights(raised, SPACING).tolist() == [22.0, 22.0]
    touching = block(d=(6, 30), w=(2, 14)) | block(d=(9, 30), w=(16, 28)) | block(d=(20, 22), h=(11, 13), w=(14, 16))
    assert thorax.diaphragm_heights(touching, SPACING).tolist() == [12.0, 18.0]


@pytest.mark.parametrize("w", [(2, 3), (5, 21)])
def test_one_lung_is_not_two_halves(w):
    assert thorax.diaphragm_heights(block(w=w), SPACING).isnan().all()


def test_the_width_ratio_is_the_gap_in_the_lower_half_over_the_width_of_both():
    sides = np.zeros((2, 20, 40), dtype=bool)
    sides[0, 2:18, 4:16], sides[1, 2:18, 24:36] = True, True
    sides[1, 14:16, 24:27] = False  # the heart
    assert thorax.width_ratio(sides) == pytest.approx(11 / 32)
    assert np.isnan(thorax.width_ratio(np.stack([sides[0], np.zeros_like(sides[0])])))


@pytest.fixture(scope="module")
def case():
    phantom = render_phantom(20_000_001, size=(40, 32, 44))
    return {
        "ct": torch.from_numpy(phantom.hu).round().to(torch.int16),
        "spacing": torch.tensor(phantom.spacing),
        "xray": torch.zeros(0, 8, 8),
        "pose": torch.zeros(0, 9),
        "centre": torch.zeros(3),
    }


def test_the_truth_has_no_error_and_a_lifted_volume_that_of_its_shift(case):
    names = [n for n in catalogue() if n.startswith(("lung_", "body_", "diaphragm")) and "dice" not in n]
    lifted = case["ct"].float().roll(2, dims=0)
    rows = score_case(case, {"same": case["ct"].float(), "lifted": lifted}, WIDE, metrics=names)
    assert len(names) == 7 and all(rows[0][name] == pytest.approx(0.0, abs=1e-4) for name in names)
    step = 2 * float(case["spacing"][0])
    assert rows[1]["diaphragm_mm"] == pytest.approx(step) and rows[1]["lung_centroid_mm"] == pytest.approx(
        step, rel=0.2
    )


def test_without_lungs_or_xray_the_reason_replaces_the_number(case):
    view = CaseView(case, case["ct"].float()[None], Window(-200.0, 500.0))
    _, reasons = measure(["lung_hd95_mm", "diaphragm_mm", "cardiothoracic_ratio"], view)
    assert all("outside window" in reason for reason in reasons.values())
    view = CaseView(case, case["ct"].float()[None], WIDE)
    assert measure(["cardiothoracic_ratio"], view)[1] == {"cardiothoracic_ratio": "the cases have no X-ray"}


def test_the_cardiothoracic_ratio_of_the_drr_against_its_own_xray_is_equal(real_data):
    """A real chest against its own DRR, and against that of a chest whose heart is wider."""
    from dataset.imaging.geometry import view_pose
    from dataset.imaging.resampling import resample
    from dataset.io.ct import read_volume
    from evaluation.metrics.reprojection import scaled_drr

    volume = resample(read_volume(sorted((real_data / "ct").glob("*.nii.gz"))[0]), (64, 64, 64))
    hu, spacing = torch.from_numpy(volume.hu).clamp(-1000, 1000), tuple(float(s) for s in volume.spacing)
    pose = view_pose(tuple(n * s for n, s in zip(hu.shape, spacing, strict=True)))
    xray = scaled_drr(hu, spacing, tuple(pose.tolist()), (128, 128))
    case = {
        "ct": hu,
        "spacing": torch.tensor(spacing),
        "xray": xray[None],
        "pose": pose[None],
        "centre": torch.zeros(3),
    }
    values, reasons = measure(["cardiothoracic_ratio"], CaseView(case, hu[None], WIDE))
    assert not reasons and values["cardiothoracic_ratio"][0] == pytest.approx(0.0, abs=0.02)


def test_totalsegmentators_folders_give_every_organ():
    heart, lungs = block(w=(10, 20)), block(w=(2, 27))
    masks = {"truth": {"heart": heart, "lungs": lungs}, "model": {"heart": block(w=(10, 15)), "lungs": lungs}}
    case = {"ct": torch.zeros(32, 28, 30), "spacing": torch.tensor(SPACING), "organs": masks}
    view = CaseView(case, torch.zeros(1, 32, 28, 30), WIDE, names=["model"])
    wanted = ["totalsegmentator_heart_volume_error", "totalsegmentator_heart_centroid_mm",
              "totalsegmentator_cardiothoracic_ratio", "totalsegmentator_ribs_hd95_mm"]  # fmt: skip
    values, reasons = measure(wanted, view)
    assert values[wanted[0]][0] == pytest.approx(50.0) and values[wanted[1]][0] == pytest.approx(10.0)
    assert values[wanted[2]][0] == pytest.approx(5 / 25) and "hold no ribs" in reasons[wanted[3]]
    assert len(totalsegmentator.ORGANS["ribs"]) == 24 and len(totalsegmentator.ORGANS["vertebrae"]) == 12
    assert {"upper_lobe_left", "middle_lobe_right", "aorta"} <= set(totalsegmentator.ORGANS)
