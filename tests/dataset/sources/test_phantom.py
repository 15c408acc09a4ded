"""The phantom source: disjoint stable splits, a key for every setting, X-rays without contrast."""

import numpy as np
import pytest
import torch
from phantom_sources import phantom_source

from dataset.imaging.drr import render_xray
from dataset.imaging.drr_options import DrrSettings
from dataset.phantom.render import draw_for_xrays, render_phantom
from dataset.sources.phantom import POPULATION_VERSION

KEY_OF_VERSION_1 = "66ab78ec198b52af"


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
        {"oversample": 3},
        {"drr": DrrSettings(photons=1e5)},
        {"drr": DrrSettings(attenuation="linear")},
    ],
)
def test_every_setting_changes_the_key(change):
    row = source().rows.iloc[0]
    assert source().key(row) != source(**change).key(row)


def test_counts_do_not_change_the_key_and_cases_do():
    rows = source().rows
    assert source().key(rows.iloc[0]) == source(train=9).key(rows.iloc[0]) != source().key(rows.iloc[1])


def test_a_case_is_the_phantom_and_the_xray_of_its_finer_drawing():
    made = source(views=2)
    row = made.rows.iloc[1]
    case, index = made.build(row), int(row["id"][-8:])
    phantom, shown = render_phantom(index, size=(16, 16, 16)), draw_for_xrays(index, size=(16, 16, 16))
    np.testing.assert_allclose(case["ct"], np.clip(phantom.hu, -1024, 3071), atol=0.51)
    expected = render_xray(torch.as_tensor(shown.hu), shown.spacing, case["pose"], (24, 24))
    torch.testing.assert_close(case["xray"].float(), expected, atol=1e-3, rtol=0)
    former = source(views=2, oversample=1).build(row)
    assert torch.equal(former["ct"], case["ct"])
    assert 0.002 < (former["xray"].float() - expected).abs().mean() < 0.1


def test_the_xrays_of_phantoms_have_the_attenuation_map_that_the_protocol_states():
    row, maps = source().rows.iloc[0], ("bilinear", "linear")
    made = [source(drr=DrrSettings(attenuation=name)) for name in maps]
    assert [one.forward_model()["attenuation"] for one in made] == list(maps)
    bilinear, linear = (one.build(row) for one in made)
    assert torch.equal(bilinear["ct"], linear["ct"])
    assert (bilinear["xray"].float() - linear["xray"].float()).abs().max() > 0.005
    assert "attenuation" not in made[0].describe()  # keys of earlier versions


def test_the_settings_of_version_1_give_its_keys_and_cases():
    """Keys as computed by the release with version 1, for the cases of `assets/phantom_128.safetensors` and others."""
    former = source(oversample=1)
    assert former.describe()["version"] == 1 and not {"oversample", "photons"} & set(former.describe())
    assert former.home() == {"version": 1, "seed": 0} and former.forward_model()["photons"] is None
    assert former.key(former.rows.iloc[0]) == KEY_OF_VERSION_1
    made, noisy = source(), source(oversample=1, drr=DrrSettings(photons=1e5))
    assert made.describe()["version"] == noisy.describe()["version"] == POPULATION_VERSION > 1
    assert made.home() != former.home() and noisy.describe()["photons"] == 1e5


def test_the_noise_of_a_case_is_its_own_in_any_order():
    noisy, quiet = source(drr=DrrSettings(photons=1e4)), source()
    first, second = noisy.rows.iloc[0], noisy.rows.iloc[1]
    noise = {}
    for name, row in [("a", first), ("b", second), ("again", first)]:
        noise[name] = noisy.build(row)["xray"].float() - quiet.build(row)["xray"].float()
    assert torch.equal(noise["a"], noise["again"]) and 0 < noise["a"].abs().max() < 0.1
    assert torch.corrcoef(torch.stack([noise["a"].flatten(), noise["b"].flatten()]))[0, 1].abs() < 0.3
    assert "Poisson of 10000 photons per mm²" in noisy.forward_model()["noise"]


def test_a_case_of_version_1_is_the_phantom_and_the_xray_of_its_plain_volume():
    made = source(views=2, oversample=1)
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
