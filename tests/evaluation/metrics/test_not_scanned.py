"""Voxels that were not scanned, in which predictions hold the truth, do not count: numbers are those of the rest."""

import pytest
import torch
from torch import nn

from dataset.imaging.coverage import NOT_SCANNED_HU, fill
from dataset.imaging.hu_window import Window
from dataset.phantom.render import LABELS, render_phantom
from evaluation.intervals.organ_volumes import true_volumes
from evaluation.metrics.base import CaseView
from evaluation.metrics.catalogue import measure
from evaluation.metrics.regions import BLOOD_LABELS

WIDE, END = Window(-1000.0, 1000.0), 22  # of 40 slices


class Difference(nn.Module):
    """In the place of the network of LPIPS."""

    def forward(self, one, other):
        return (one - other).abs().mean(dim=(1, 2, 3))


def case_of(scanned: slice, labels: bool) -> dict:
    """A phantom of which the slices `scanned` were scanned."""
    phantom = render_phantom(20_000_001, size=(40, 32, 44))
    hu = phantom.hu.round().copy()
    outside = torch.ones(hu.shape, dtype=torch.bool)
    outside[scanned] = False
    hu[outside.numpy()] = NOT_SCANNED_HU
    case = {"ct": torch.from_numpy(fill(hu)[0]), "scanned": ~outside, "spacing": torch.tensor(phantom.spacing)}
    lungs = torch.from_numpy(phantom.labels == LABELS["lungs"])
    case |= {"organs": {"truth": {"lungs": lungs, "heart": lungs}, "model": {"lungs": lungs.roll(3, 2)}}}
    return case | ({"labels": torch.from_numpy(phantom.labels)} if labels else {})


def cut(case: dict) -> dict:
    """The scanned slices alone."""
    organs = {key: {name: mask[:END] for name, mask in masks.items()} for key, masks in case["organs"].items()}
    return {"spacing": case["spacing"], "ct": case["ct"][:END], "labels": case["labels"][:END], "organs": organs}


def values_of(case: dict, prediction: torch.Tensor, *names: str) -> dict:
    view = CaseView(case, prediction[None], WIDE, names=["model"], tools={"lpips": Difference()})
    values, reasons = measure(names, view)
    return {name: reasons.get(name, float(values[name][0])) for name in names}


def test_numbers_are_those_of_the_scanned_slices():
    case = case_of(slice(END), labels=True)
    vessels = torch.isin(case["labels"], torch.tensor([LABELS[name] for name in BLOOD_LABELS]))
    prediction = torch.where(vessels, case["ct"] * 0.5, case["ct"]) - 150.0
    names = ("vessel_contrast", "artery_contrast", "heart_dice_labels", "organ_hu", "lpips",
             "totalsegmentator_lungs", "totalsegmentator_lungs_centroid_mm")  # fmt: skip
    wanted = values_of(cut(case), prediction[:END], *names)
    assert values_of(case, prediction, *names) == pytest.approx(wanted, rel=1e-4)


def test_lung_vessels_of_the_segmenter_count_where_they_were_scanned():
    case = case_of(slice(END), labels=False)
    assert values_of(case, torch.full_like(case["ct"], -850.0), "vessel_contrast") == {"vessel_contrast": 0.0}


@pytest.mark.parametrize("end", [10, 40])
def test_a_mirrored_chest_is_detected_in_few_scanned_slices(end):
    case = case_of(slice(15, 15 + end), labels=False)
    case["scanned"][:, :, :6] = False  # the field of view cuts the right side
    assert values_of(case, case["ct"], "left_right") == {"left_right": 1.0}
    assert values_of(case, case["ct"].flip(-1), "left_right") == {"left_right": 0.0}
    case["scanned"][:, :, :30] = False
    assert "one side" in values_of(case, case["ct"], "left_right")["left_right"]


def test_what_a_scan_cuts_off_has_no_volume_and_no_height():
    whole, upper = case_of(slice(40), labels=False), case_of(slice(12, 40), labels=False)
    assert true_volumes(whole)["lung_volume"] > 1000.0 and true_volumes(upper) == {}
    assert set(true_volumes(case_of(slice(12, 40), labels=True))) == {"lung_volume", "heart_volume"}
    assert values_of(whole, whole["ct"], "diaphragm_mm") == {"diaphragm_mm": 0.0}
    assert "diaphragm" in values_of(upper, upper["ct"], "diaphragm_mm")["diaphragm_mm"]
