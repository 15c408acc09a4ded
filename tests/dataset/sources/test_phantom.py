"""The phantom source: disjoint stable splits, a key for every setting, X-rays without contrast."""

import numpy as np
import pytest
import torch
from phantom_sources import phantom_source

from dataset.imaging.drr import render_xray
from dataset.phantom.render import render_phantom


def source(**changes):
    options = {"train": 3, "val": 2, "test": 2, "volume_size": (16, 16, 16), "xray_size": (24, 24)}
    return phantom_source(**{**options, **changes})


def test_more_training_phantoms_leave_the_other_splits_alone():
    small, large = source().rows, source(train=30).rows
    for split in ("val", "test"):
        assert small.loc[small["split"] == split, "id"].tolist() == large.loc[large["split"] == split, "id"].tolist()
    assert large["id"].is_unique and large["split"].value_counts().to_dict() == {"train": 30, "val": 2, "test": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"volume_size": (16, 16, 20)},
        {"extent": (300.0, 256.0, 352.0)},
        {"xray_size": (32, 24)},
        {"views": 2},
        {"pe_share": 0.2},
        {"sign_rate": 0.1},
    ],
)
def test_every_setting_changes_the_key(change):
    row = source().rows.iloc[0]
    assert source().key(row) != source(**change).key(row)


def test_counts_do_not_change_the_key_and_cases_do():
    rows = source().rows
    assert source().key(rows.iloc[0]) == source(train=9).key(rows.iloc[0]) != source().key(rows.iloc[1])


def test_a_case_is_the_phantom_and_the_xray_of_its_plain_volume():
    made = source(views=2)
    row = made.rows.iloc[1]
    case = made.build(row)
    phantom = render_phantom(int(row["id"][-8:]), seed=0, size=(16, 16, 16))
    np.testing.assert_allclose(case["ct"], np.clip(phantom.hu, -1024, 3071), atol=0.51)
    assert case["xray"].shape == (2, 24, 24) and int(case["label"]) == phantom.label
    np.testing.assert_array_equal(case["labels"], phantom.labels)
    expected = render_xray(torch.as_tensor(phantom.hu_plain), phantom.spacing, case["pose"], (24, 24))
    torch.testing.assert_close(case["xray"].float(), expected, atol=1e-3, rtol=0)


def test_nothing_is_missing_and_the_protocol_names_the_population():
    assert source().missing() == [] and source().describe()["version"] >= 1
