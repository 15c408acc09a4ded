"""Regions, Dice, vessel contrast, organ HU and laterality on phantoms."""

import numpy as np
import pytest
import torch
from evaluation_fakes import chest_world, score

from common.errors import UserError
from dataset.imaging.hu_window import Window
from dataset.phantom.render import LABELS, render_phantom
from evaluation.metrics import regions
from evaluation.metrics.base import CaseView, NotMeasured
from evaluation.metrics.catalogue import catalogue, measure
from evaluation.metrics.dice import visible_heart
from evaluation.metrics.laterality import left_right
from evaluation.metrics.organ_hu import plausible_share
from evaluation.scoring.score_cases import FIDELITY, TRUTH, metric_names, score_case, score_cases

WIDE, NARROW = Window(-1000.0, 1000.0), Window(-200.0, 500.0)
IMPERFECT = {
    "reprojection",
    "reprojection_noise",
    "cardiothoracic_ratio",
    "lpips",
    "spread_over_error",
    "covered_90",
} | {n for n in catalogue() if n.startswith(("totalsegmentator", "x2ct", "spread_"))}


def case_of(index: int, labels: bool = True, size=(40, 32, 44)) -> dict:
    phantom = render_phantom(index, size=size)
    case = {
        "ct": torch.from_numpy(phantom.hu).round().to(torch.int16),
        "spacing": torch.tensor(phantom.spacing),
        "xray": torch.zeros(1, 8, 8),
        "pose": torch.full((1, 9), float("nan")),
        "centre": torch.zeros(3),
    }
    return case | ({"labels": torch.from_numpy(phantom.labels)} if labels else {})


@pytest.fixture(scope="module")
def case():
    return case_of(20_000_001)


@pytest.mark.parametrize("labels", [True, False])
def test_every_metric_is_perfect_at_identity(labels):
    case = case_of(20_000_001, labels)
    found = score(case["ct"].float(), case, WIDE, metrics="all")
    for name, metric in catalogue().items():
        if name in IMPERFECT or (not labels and (name.endswith("_labels") or name == "artery_contrast")):
            assert np.isnan(found[name]), name
        elif name in ("psnr", "psnr_body"):
            assert found[name] == 100.0
        else:
            wanted = 0.0 if metric.best == "low" else 1.0
            assert found[name] == pytest.approx(wanted, abs=1e-5), name


def test_each_metric_has_a_label_a_definition_and_a_direction():
    for name, metric in catalogue().items():
        assert metric.best in ("high", "low", "one", "none") and metric.definition and metric.label, name
        assert metric.name == name
    assert set(FIDELITY) <= set(catalogue()) and set(metric_names()) <= set(catalogue())
    assert metric_names()[:3] == ("psnr", "ssim", "mae_hu")
    assert metric_names(["ssim", "psnr", "ssim"]) == ("ssim", "psnr")


def test_unknown_metrics_raise_user_error():
    with pytest.raises(UserError, match="metrics=everything: choose default, fidelity, all"):
        metric_names("everything")
    with pytest.raises(UserError, match="no metric .'psnrr'.*psnr"):
        metric_names(["psnrr"])


def test_an_offset_in_a_region_changes_the_error_of_this_region_only(case):
    hu, view = case["ct"].float(), CaseView(case, case["ct"][None], WIDE)
    lungs = view.region("lungs")
    expected = {"mae_hu_lungs": 50.0, "rmse_hu_lungs": 50.0, "mae_hu_bone": 0.0}
    found = score(torch.where(lungs, hu + 50.0, hu), case, WIDE, metrics=list(expected))
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_region_that_the_window_clips_has_a_reason_and_no_value(case):
    names = ["mae_hu_lungs", "lung_dice", "lung_dice_labels", "heart_dice_labels", "vessel_contrast", "reprojection"]
    view = CaseView(case, case["ct"][None], NARROW)
    values, reasons = measure([*names, "mae_hu_soft", "psnr"], view)
    for name in names:
        assert np.isnan(values[name]).all() and reasons[name].startswith("outside window"), name
    assert values["mae_hu_soft"] == 0.0 and values["psnr"] == 100.0
    _, reasons = measure(["mae_hu_vessels", "mae_hu_bone"], CaseView(case, case["ct"][None], Window(-1000.0, 100.0)))
    assert all(reason.startswith("outside window") for reason in reasons.values()) and len(reasons) == 2


def test_masks_come_from_hu_before_windowing(case):
    narrow, wide = (CaseView(case, case["ct"][None], window).segmented_lungs for window in (NARROW, WIDE))
    assert torch.equal(narrow, wide)


def test_contrast_vessels_are_separated_from_bone_without_labels():
    precise, found = [], []
    for index in range(20_000_000, 20_000_004):
        phantom = render_phantom(index, size=(64, 64, 64))
        hu = torch.from_numpy(phantom.hu)
        body, lungs = regions.body_mask(hu), regions.lung_mask(hu, phantom.spacing)
        bone, vessel = regions.split_dense(hu, body, lungs, phantom.spacing)
        assert not (bone & vessel).any()
        blood = torch.from_numpy(np.isin(phantom.labels, [LABELS[n] for n in regions.BLOOD_LABELS]))
        precise.append(float((vessel & blood).sum() / vessel.sum()))
        found.append(float((vessel & blood).sum() / (blood & (hu >= regions.DENSE_HU)).sum()))
    assert min(precise) > 0.75 and np.mean(found) > 0.4


def test_without_contrast_agent_there_is_no_vessel():
    phantom = render_phantom(20_000_001, size=(48, 48, 48))
    hu = torch.from_numpy(phantom.hu_plain)
    body, lungs = regions.body_mask(hu), regions.lung_mask(hu, phantom.spacing)
    bone, vessel = regions.split_dense(hu, body, lungs, phantom.spacing)
    spine = torch.from_numpy(phantom.labels == LABELS["bone"])
    assert (vessel & ~spine).sum() < 0.02 * bone.sum()


def test_heart_dice_evaluates_the_border_with_the_lungs(case):
    hu, spacing = case["ct"].float(), tuple(case["spacing"].tolist())
    view = CaseView(case, hu[None], WIDE)
    heart, evaluated = visible_heart(hu, view.labelled("heart"), view.labelled(*regions.LUNG_LABELS), spacing)
    assert (heart & ~evaluated).sum() == 0 and evaluated.sum() > heart.sum()
    grown = torch.where(evaluated, torch.tensor(40.0), hu)
    gone = torch.where(heart, torch.tensor(-850.0), hu)
    found = [score(v, case, WIDE, metrics=["heart_dice_labels"])["heart_dice_labels"] for v in (hu, grown, gone)]
    n, m = int(heart.sum()), int(evaluated.sum())
    assert found == pytest.approx([1.0, 2 * n / (n + m), 0.0], abs=1e-6)
    liver = torch.where(
        view.labelled("liver"), torch.tensor(-850.0), hu
    )  # adjacent to the heart, but not at its border with the lungs
    assert score(liver, case, WIDE, metrics=["heart_dice_labels"])["heart_dice_labels"] == 1.0


def test_lung_dice_by_own_masks_follows_the_prediction(case):
    hu = case["ct"].float()
    smaller = torch.where(CaseView(case, hu[None], WIDE).labelled("lungs"), hu, torch.full_like(hu, 40.0))
    smaller[: smaller.shape[0] // 2] = 40.0
    found = score(smaller, case, WIDE, metrics=["lung_dice_labels", "lung_dice"])
    assert 0.3 < found["lung_dice_labels"] < 0.9
    assert found["lung_dice"] == pytest.approx(found["lung_dice_labels"], abs=0.1)


def test_vessel_contrast_is_the_remaining_share_of_the_step(case):
    hu = case["ct"].float().clamp(-1000.0, 1000.0)
    view = CaseView(case, hu[None], WIDE)
    vessel, lung = view.labelled("vessels"), view.labelled("lungs")
    around = regions.within_mm(vessel, view.spacing, 10.0) & lung & ~vessel
    middle = hu[around].mean()
    faint = hu.clone()
    faint[vessel] = middle + 0.3 * (hu[vessel] - middle)
    found = score(faint, case, WIDE, metrics=["vessel_contrast"])["vessel_contrast"]
    assert found == pytest.approx(0.3, abs=1e-3)


def test_within_mm_uses_the_spacing():
    spot = torch.zeros(9, 9, 9, dtype=torch.bool)
    spot[4, 4, 4] = True
    near = regions.within_mm(spot, (5.0, 10.0, 20.0), 10.0)
    assert near.sum() == 1 + 2 * 2 + 2  # ±1, ±2 along d; ±1 along h; nothing along w or diagonally within 10 mm


def test_organ_hu_is_the_share_of_plausible_organs(case):
    hu = case["ct"].float()
    lungs = CaseView(case, hu[None], WIDE).labelled(*regions.LUNG_LABELS)
    found = score(torch.where(lungs, torch.tensor(-200.0), hu), case, WIDE, metrics=["organ_hu"])["organ_hu"]
    assert found == pytest.approx(5 / 6, abs=1e-6)  # lungs of six organs
    volume = torch.tensor([10.0, 40.0, 90.0]).view(1, 1, 3)
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    assert plausible_share(volume, {"heart": mask, "lungs": mask}) == 0.5


def test_a_mirrored_chest_is_detected_even_off_centre(case):
    hu = case["ct"].float()
    assert left_right(torch.stack([hu, hu.flip(-1)]), hu).tolist() == [1.0, 0.0]
    assert left_right(hu.roll(3, -1), hu) == 1.0
    assert left_right(hu.flip(-1).roll(-4, -1), hu) == 0.0
    noisy = hu + 60.0 * torch.randn(hu.shape, generator=torch.Generator().manual_seed(0))
    assert left_right(noisy.flip(-1), hu) == 0.0
    symmetric = torch.minimum(hu, hu.flip(-1))
    assert left_right(symmetric, hu) == 0.5


def test_predictions_that_are_not_hu_raise(case):
    grey = (case["ct"].float() + 1000.0) / 2000.0
    for volume, shown in ((grey, "values from"), (2 * grey - 1, "values from"), (255 * grey.clamp(0, 1), "give the")):
        with pytest.raises(ValueError, match=shown):
            score_case(case, {"model": volume}, WIDE)


def test_two_cases_of_one_id_raise():
    cases = chest_world(2, 3)
    with pytest.raises(UserError, match="2 cases have the id a"):
        score_cases(cases, lambda i: {"model": cases.case(i)["ct"].float()}, WIDE, ["p", "q"], ["a", "a"])


def test_scores_do_not_depend_on_workers_and_record_what_was_not_measured():
    cases = chest_world(3, 3)

    def run(workers):
        volumes = lambda i: {"model": cases.case(i)["ct"].float() + 30.0}  # noqa: E731
        return score_cases(cases, volumes, WIDE, list("pqr"), list("abc"), workers, ["psnr", "heart_dice_labels"])

    one, three = run(1), run(3)
    assert one.equals(three)
    assert one.attrs["not_measured"] == {"heart_dice_labels": "the cases have no labels"}
    assert (one.method == TRUTH).sum() == 3


def test_a_missing_label_is_not_measured(case):
    view = CaseView(case | {"labels": torch.zeros_like(case["labels"])}, case["ct"][None], WIDE)
    with pytest.raises(NotMeasured, match="no heart"):
        view.labelled("heart")


def test_a_window_without_air_has_no_body_in_the_prediction(case):
    names = [name for name in catalogue() if name.startswith("body_")]
    view = CaseView(case, torch.full_like(case["ct"], 40.0)[None], NARROW)  # air as well
    values, reasons = measure(names, view)
    assert len(names) == 4 and all("outside window" in reasons[name] for name in names)
    assert all(np.isnan(value).all() for value in values.values())
