"""The first rule in which two series differ decides; the only series of a study is kept; each has a reason."""

from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from common.cli import CONFIG
from common.errors import UserError
from dataset.io.dicom_headers import CtAcquisition, Identity, Slice
from dataset.io.dicom_series import CtSeries
from dataset.preparation.series_ranking import pick_rules, rank


@pytest.fixture(scope="module")
def cfg():
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        return compose("prepare")


@pytest.fixture(scope="module")
def criteria(cfg):
    return instantiate(cfg.criteria, _convert_="all")


@pytest.fixture(scope="module")
def rules(cfg, criteria):
    return pick_rules(cfg.rules, criteria)


def series(uid="1", count=200, step=1.5, normal=(0.0, 0.0, 1.0), gap=-1, **fields):
    heights = np.delete(np.arange(count + 1) * step, gap)
    slices = [Slice("", 0, "", tuple(h * np.array(normal)), (), (), False) for h in heights]
    given = {"contrast": "OMNI", "kernel": "B30f", "thickness": 1.5, "image_type": ("ORIGINAL", "PRIMARY", "AXIAL")}
    outer = {name: fields.pop(name) for name in ("dropped", "left_out") if name in fields}
    acquisition = CtAcquisition(**given | fields)
    return CtSeries([], Identity(series_uid=uid), acquisition, normal, heights, slices, **outer)


GOOD = series("good")
WORSE = {  # from the least to the most important rule
    "slices": series("a", count=190, step=1.6),
    "thorax": series("b", count=100),
    "thin": series("c", count=200, thickness=5.0),
    "soft_kernel": series("d", count=400, kernel="B70f"),
    "contrast": series("e", count=400, contrast=""),
    "original": series("f", count=400, image_type=("DERIVED", "SECONDARY", "AXIAL", "MIP")),
    "axial": series("g", count=400, normal=(0.0, 1.0, 0.0)),
    "complete": series("h", count=400, gap=77),
}


@pytest.mark.parametrize("rule", WORSE)
def test_each_rule_decides_alone(rules, rule):
    first, second = rank([WORSE[rule], GOOD], rules)
    assert first.series is GOOD and first.chosen and not second.chosen and first.flags == []
    assert "the chosen series" in second.reason


def test_rules_count_in_their_order(rules):
    ranked = rank([*WORSE.values(), GOOD], rules)
    assert [one.series.identity.series_uid for one in ranked] == ["good", *"abcdefgh"]
    reverse = rank([WORSE["slices"], WORSE["axial"]], rules[::-1])
    assert reverse[0].series is WORSE["axial"]  # it has more slices


def test_a_sheared_stack_is_not_complete(rules):
    sheared = series("l", count=400)
    way = np.array([0.0, 0.2, 1.5])
    sheared.slices = [Slice("", 0, "", tuple(i * way), (), (), False) for i in range(400)]
    ranked = rank([sheared, GOOD], rules)
    assert ranked[0].series is GOOD and "gantry tilt" in ranked[1].reason


def test_the_only_series_is_kept_with_a_flag_for_each_rule_that_it_fails(rules):
    (only,) = rank([series("e", count=400, contrast="", thickness=5.0, left_out="1 × localiser")], rules)
    assert only.chosen and only.reason == "the only series"
    assert only.flags == ["no contrast agent in header or description", "5 mm slices", "left out: 1 × localiser"]


def test_a_dropped_series_is_listed_and_never_chosen(rules):
    localiser = series("z", dropped="localiser (2 images)")
    ranked = rank([localiser, WORSE["thin"]], rules)
    assert [(one.chosen, one.place) for one in ranked] == [(True, 1), (False, 0)]
    assert ranked[1].reason == "localiser (2 images)"
    assert not any(one.chosen for one in rank([localiser], rules))


def test_a_tie_is_flagged_and_does_not_depend_on_the_order(rules):
    twin = replace(GOOD, identity=Identity(series_uid="twin"))
    for order in ([GOOD, twin], [twin, GOOD]):
        ranked = rank(order, rules)
        assert ranked[0].series is GOOD and ranked[0].flags == ["ties with another series"]


def test_a_selected_series_precedes_the_rules(rules):
    ranked = rank([GOOD, WORSE["axial"]], rules, picks={"g", "a series of another study"})
    assert [one.series.identity.series_uid for one in ranked if one.chosen] == ["g"]
    assert rank([GOOD, WORSE["axial"]], rules, picks={"of another study"})[0].chosen


def test_an_unknown_rule_is_refused_with_the_choices():
    with pytest.raises(UserError, match="no rule thickness; choose from thin"):
        pick_rules(["thickness"], {"thin": None})


@pytest.mark.parametrize(
    ("kernel", "score"),
    [("B30f", 1), ("B31f", 1), ("B70f", 0), ("I31f\\3", 1), ("I70f\\2", 0), ("Br40d\\3", 1), ("Br59f", 0), ("Qr40", 1),
     ("STANDARD", 1), ("LUNG", 0), ("BONEPLUS", 0), ("SOFT", 1), ("B", 1), ("YA", 0), ("L", 0), ("FC08", 1),
     ("FC17-H", 1), ("FC52", 0), ("FC86", 0), ("", 0.5), ("XYZ", 0.5), ("BODY FILTER", 0.5)],
)  # fmt: skip
def test_kernels_of_the_manufacturers(criteria, kernel, score):
    assert criteria["soft_kernel"].evaluate(series(kernel=kernel))[0] == score


@pytest.mark.parametrize(
    ("agent", "description", "score"),
    [("OMNI 350", "", 1), ("NONE", "CTPA", 0), ("", "CT CHEST R/O PE", 1), ("", "Thorax ohne", 0), ("", "C+ 1.25", 1),
     ("", "CHEST W/O CONTRAST", 0), ("", "PECTUS", 0), ("", "CHEST W/ CONT", 1), ("", "", 0)],
)  # fmt: skip
def test_contrast_by_agent_else_by_words(criteria, agent, description, score):
    assert criteria["contrast"].evaluate(series(contrast=agent, description=description))[0] == score


@pytest.mark.parametrize(
    ("kinds", "description", "word"),
    [(("DERIVED", "SECONDARY", "CSA MPR"), "", "MPR"), (("DERIVED", "REFORMATTED", "AVERAGE"), "", "REFORMATTED"),
     (("ORIGINAL", "PRIMARY", "AXIAL"), "Thorax MIP 10.0", "MIP"), (("ORIGINAL",), "IMPRESSION", ""),
     (("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"), "AMIPLUS", "")],
)  # fmt: skip
def test_reformats_by_whole_words(criteria, kinds, description, word):
    reason = f"reformatted ({word})" if word else "no reformat"
    assert criteria["original"].evaluate(series(image_type=kinds, description=description))[1] == reason
