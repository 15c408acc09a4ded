"""Claims of the comparison: one pre-specified comparison, Holm for the others, no difference unless shown."""

import json

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from evaluation.classifiers.comparison import analyse
from evaluation.classifiers.metadata_baseline import metadata_logits

INPUTS = {"ctpa": "ct", "xray": "xray", "xray_b": "xray", "generated": "generated"}


def table(strengths: dict[str, float], folds: int = 1, cases: int = 120, seed: int = 0, noise: float = 0.3, **columns):
    """Scores of classifiers of which each adds a share of the truth to a common part."""
    rng = np.random.default_rng(seed)
    rows = []
    for fold in range(folds):
        for part, count in (("val", cases // 2), ("test", cases)):
            labels = np.arange(count) % 2
            shared = rng.normal(size=count)
            scores = {n: shared + s * labels + noise * rng.normal(size=count) for n, s in strengths.items()}
            ids = [f"{part}_{fold}_{i}" for i in range(count)]
            rows.append(pd.DataFrame({"fold": fold, "part": part, "id": ids, "patient": ids, "label": labels,
                                      "view": np.where(np.arange(count) % 3 == 0, "AP", "PA"), "xray_source": "film",
                                      **scores}))  # fmt: skip
    return pd.concat(rows, ignore_index=True).assign(**columns)


def test_the_primary_comparison_is_with_the_strongest_xray_classifier_on_validation():
    found = analyse(table({"ctpa": 3.0, "xray": 0.3, "xray_b": 1.0, "generated": 2.0}), INPUTS, draws=200)
    primary = found["primary"]
    assert (primary["first"], primary["second"]) == ("generated", "xray_b")
    assert primary["shown"] and primary["sentence"].endswith("higher.") and "p_holm" not in primary
    others = {(row["first"], row["second"]): row for row in found["comparisons"]}
    assert len(others) == 5 and ("xray_b", "generated") not in others
    assert all(row["p_holm"] >= row["p"] for row in others.values())
    assert json.dumps(found, allow_nan=False)


def test_test_cases_do_not_choose_the_strongest_classifier():
    scores = table({"ctpa": 3.0, "xray": 1.0, "xray_b": 1.0, "generated": 1.0})
    test = scores.part == "test"
    scores.loc[test, "xray_b"] += 4.0 * scores.loc[test, "label"]  # better, but only where it may not be chosen
    scores.loc[~test, "xray"] += 2.0 * scores.loc[~test, "label"]
    assert analyse(scores, INPUTS, draws=50)["primary"]["second"] == "xray"


def test_equal_classifiers_show_no_difference_and_non_inferiority_needs_the_margin():
    scores = table({"ctpa": 1.5, "xray": 1.5, "xray_b": 1.0, "generated": 1.5}, cases=60, noise=1.0)
    found = analyse(scores, INPUTS, margin=0.05, draws=100)
    assert not found["primary"]["shown"] and "no difference shown" in found["primary"]["sentence"]
    assert not found["non_inferiority"]["shown"] and "no non-inferiority" in found["non_inferiority"]["sentence"]
    many = table({"ctpa": 1.5, "xray": 1.5, "xray_b": 1.0, "generated": 1.5}, cases=2000, noise=0.2)
    claim = analyse(many, INPUTS, margin=0.05, draws=20)["non_inferiority"]
    assert claim["shown"] and "not worse than CTPA by more than 0.05" in claim["sentence"]
    assert analyse(scores, INPUTS, draws=20)["non_inferiority"]["shown"] is None


def test_thresholds_depend_on_validation_cases_only():
    scores = table({"ctpa": 2.0}, folds=2)
    first = analyse(scores, {"ctpa": "ct"}, draws=20)["classifiers"]["ctpa"]
    changed = scores.copy()
    changed.loc[changed.part == "test", "ctpa"] += 7.0
    second = analyse(changed, {"ctpa": "ct"}, draws=20)["classifiers"]["ctpa"]
    assert first["thresholds"]["youden"]["logits"] == second["thresholds"]["youden"]["logits"]
    assert len(first["thresholds"]["youden"]["logits"]) == 2
    assert second["thresholds"]["youden"]["sensitivity"]["mean"] > 0.99 and second["auc"] == first["auc"]
    assert first["thresholds"]["sensitive"]["sensitivity"]["mean"] > 0.85


def test_folds_may_have_different_scales():
    scores = table({"ctpa": 2.0, "xray": 1.0}, folds=3)
    inputs = {"ctpa": "ct", "xray": "xray"}
    moved = scores.copy()
    moved["ctpa"] = moved["ctpa"] * 5.0 + 50.0 * moved["fold"]
    plain, other = (analyse(s, inputs, draws=50)["classifiers"]["ctpa"] for s in (scores, moved))
    assert plain["auc"] == other["auc"]
    assert plain["thresholds"]["youden"]["accuracy"] == other["thresholds"]["youden"]["accuracy"]


def test_contrast_drrs_are_marked_as_no_xray_evidence():
    found = analyse(table({n: 1.0 for n in INPUTS}, xray_source="drr_contrast"), INPUTS, draws=20)["classifiers"]
    assert all("not X-ray evidence" in found[name]["notes"][0] for name in ("xray", "xray_b", "generated"))
    assert found["ctpa"]["notes"] == []


def test_each_view_has_an_auc_and_an_absent_one_none():
    scores = table({"xray": 1.0})
    ap = (scores["view"] == "AP") & (scores.part == "test")
    scores.loc[ap, "xray"] = -10.0 * scores.loc[ap, "label"]  # wrong on AP alone
    views = analyse(scores, {"xray": "xray"}, draws=20)["classifiers"]["xray"]["views"]
    assert views["AP"]["mean"] == 0.0 and views["PA"]["mean"] > 0.6 and views["AP"]["low"] < views["AP"]["high"]
    assert views["AP"]["cases"] + views["PA"]["cases"] == 120
    only = analyse(scores.assign(view="PA"), {"xray": "xray"}, draws=20)["classifiers"]["xray"]["views"]
    assert only["AP"] is None


def test_invalid_scores_are_refused():
    good = table({n: 1.0 for n in INPUTS}, cases=20)
    test = good.part == "test"
    bad = {
        "have the id": pd.concat([good, good.iloc[:1]]),
        "0 positive": good[~test | (good.label == 0)],
        "not finite": good.assign(xray=np.nan),
        "tested in two folds": pd.concat([good, good.assign(fold=1)]),
    }
    for words, scores in bad.items():
        with pytest.raises(UserError, match=words):
            analyse(scores, INPUTS, draws=5)
    with pytest.raises(UserError, match="margin=0.9"):
        analyse(good, INPUTS, margin=0.9, draws=5)
    with pytest.raises(UserError, match="two classifiers of generated"):
        analyse(good, INPUTS | {"xray": "generated"}, draws=5)


def test_the_metadata_baseline_uses_age():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"label": np.arange(300) % 2, "view": "PA", "sex": rng.choice(["F", "M", ""], 300),
                         "age": np.where(rng.random(300) < 0.2, -1, 50), "hours_xray_to_ct": np.nan})  # fmt: skip
    rows["age"] = np.where(rows.age == -1, -1, rng.normal(50, 5, 300) + 10 * rows.label)
    (logits,) = metadata_logits(rows[:200], rows[200:])
    labels = rows.label.to_numpy()[200:]
    assert logits[labels == 1].mean() > logits[labels == 0].mean() + 0.5
    (shuffled,) = metadata_logits(rows[:200].assign(age=rng.permutation(rows.age[:200])), rows[200:])
    assert abs(shuffled[labels == 1].mean() - shuffled[labels == 0].mean()) < 0.3
    assert metadata_logits(rows.assign(age=-1, sex=""), rows) is None
