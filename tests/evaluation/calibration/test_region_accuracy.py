"""Names of regions: precision and recall of generated masks against labels decide whether a region has its name."""

import pytest
import torch

from dataset.imaging.hu_window import Window
from dataset.phantom.render import LABELS
from evaluation.calibration.region_accuracy import region_accuracy, region_counts
from evaluation.intervals.quantities import NAMED_BY_LABELS, TITLES, title

SIZE, SPACING, WINDOW = (24, 40, 40), (10.0, 8.0, 8.0), Window(-1000.0, 1000.0)


def chest() -> tuple[torch.Tensor, torch.Tensor]:
    """HU and labels: a body with two lungs, bright blood between them, and bright bone at the back."""
    hu, labels = torch.full(SIZE, -1000.0), torch.zeros(SIZE, dtype=torch.uint8)
    hu[:, 4:36, 3:37] = 40.0
    for left, right in ((6, 15), (25, 34)):
        hu[4:20, 9:27, left:right] = -850.0
        labels[4:20, 9:27, left:right] = LABELS["lungs"]
    hu[4:20, 14:22, 17:23] = 350.0
    labels[4:20, 14:22, 17:23] = LABELS["heart"]
    hu[:, 30:34, 16:24] = 500.0
    labels[:, 30:34, 16:24] = LABELS["bone"]
    return hu, labels


def case() -> dict:
    hu, labels = chest()
    return {"ct": hu, "labels": labels, "spacing": torch.tensor(SPACING)}


def test_the_truth_itself_has_every_name():
    found = region_accuracy([region_counts(chest()[0], case(), SPACING, WINDOW)])
    assert set(found) == set(NAMED_BY_LABELS)
    for name, shares in found.items():
        assert shares["cases"] == 1 and min(shares["precision"], shares["recall"]) > 0.9, name
        assert title(name, found) == TITLES[name]


def test_bone_that_is_drawn_as_soft_tissue_or_too_large_loses_its_name():
    half, whole = chest()[0], chest()[0]
    half[:12, 30:34, 16:24] = 40.0
    whole[:, 30:34, 8:32] = 500.0
    for mean, precision, recall in ((half, 1.0, 0.5), (whole, 1 / 3, 1.0)):
        found = region_accuracy([region_counts(mean, case(), SPACING, WINDOW)])
        assert found["bone"]["precision"] == pytest.approx(precision, abs=0.01)
        assert found["bone"]["recall"] == pytest.approx(recall, abs=0.01)
        assert title("bone", found).startswith("dense tissue") and title("lungs", found) == "lungs"
    assert title("soft", found) == "soft tissue"  # a range of HU, not an organ


def test_voxels_of_all_cases_are_counted_together():
    empty = {name: (0, 10, 0) for name in NAMED_BY_LABELS}
    whole = {name: (30, 30, 60) for name in NAMED_BY_LABELS}
    found = region_accuracy([empty, whole, {}])
    assert found["bone"] == {"precision": 0.75, "recall": 0.5, "cases": 2}


def test_without_labels_nothing_is_confirmed():
    counts = region_counts(chest()[0], {"ct": chest()[0]}, SPACING, WINDOW)
    assert region_accuracy([counts]) == {}
    for accuracy in ({}, None):  # without labels, and in files of earlier versions
        assert title("bone", accuracy).startswith("dense tissue") and title("heart_volume", accuracy) == "heart volume"
        assert title("lung_volume", accuracy) == "volume of air-filled tissue"
