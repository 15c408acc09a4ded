"""The analysis of simulated readers with a known truth, and of answers counted by hand."""

import numpy as np
import pandas as pd
import pytest
from reader_files import QUESTIONS, simulate_answers
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evaluation.readers.analysis import analyse, verdict
from evaluation.readers.design import ARMS, Item, reading_order
from evaluation.readers.power_simulation import CASE_SPREAD, READER_SPREAD, expected_precision, simulated_rate
from evaluation.readers.questions import parse_questions
from evaluation.readers.two_way_bootstrap import draw_weights, weighted_auc

ASKED = parse_questions(QUESTIONS)


def study(per_arm: int, readers: int, seed: int = 0) -> tuple[list[Item], dict[str, list[str]]]:
    count = 3 * per_arm
    items = [Item(f"{i:08x}", ARMS[i % 3], f"c{i}", f"p{i:04d}", (i // 3) % 2) for i in range(count)]
    generator = np.random.default_rng(seed)
    return items, {f"r{k}": reading_order(items, 0.2, generator) for k in range(readers)}


def simulated(shift: float, per_arm: int = 60, readers: int = 6, pe_shift: float = 0.0, seed: int = 0) -> dict:
    items, orders = study(per_arm, readers, seed)
    answers = simulate_answers(items, orders, ASKED, {"generated": shift}, pe_shift, seed)
    return analyse(answers, items, ASKED, planned=len(answers), draws=400)


def test_equal_arms_are_indistinguishable():
    result = simulated(0.0, per_arm=120, readers=10)
    rate = result["questions"]["origin"]["rates"]["real against generated"]
    assert rate["verdict"] == "indistinguishable" and "indistinguishable" in result["statement"]
    assert abs(rate["mean"] - 0.5) < 0.06 and result["warnings"] == []


def test_a_strong_shift_is_distinguishable():
    result = simulated(-2.5)
    entry = result["questions"]["origin"]
    assert entry["rates"]["real against generated"]["verdict"] == "distinguishable"
    assert entry["rates"]["real against autoencoder"]["verdict"] != "distinguishable"  # these were not moved
    assert "readers distinguish them" in result["statement"]
    assert entry["called_real"]["generated"]["high"] < entry["called_real"]["real"]["low"]
    higher = result["questions"]["realism"]["higher"]["generated over real"]
    assert higher["high"] < 0.3  # the same readers rate them lower


def test_a_small_study_claims_nothing():
    result = simulated(0.0, per_arm=6, readers=3)
    assert result["questions"]["origin"]["rates"]["real against generated"]["verdict"] == "undecided"
    assert "nothing is shown" in result["statement"] and "Few: 3 readers, 6 volumes" in result["statement"]
    assert len(result["warnings"]) == 2
    alone = simulated(0.0, per_arm=20, readers=1)
    assert alone["questions"]["origin"]["rates"]["real against generated"]["low"] is None
    assert "nothing is claimed" in alone["statement"]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.41, 0.59, "indistinguishable"), (0.40, 0.60, "indistinguishable"), (0.39, 0.59, "undecided"),
     (0.45, 0.61, "undecided"), (0.52, 0.66, "distinguishable"), (0.2, 0.48, "distinguishable")],
)  # fmt: skip
def test_the_verdict_follows_its_margin(low, high, word):
    assert verdict({"low": low, "high": high, "low_95": low - 0.01, "high_95": high + 0.01}) == word


def test_readers_distinguish_only_by_the_interval_of_95_percent():
    rate = {"low": 0.505, "high": 0.62, "low_95": 0.495, "high_95": 0.63}
    assert verdict(rate) == "undecided" and verdict(rate | {"low_95": 0.501}) == "distinguishable"


def test_a_reader_who_always_answers_real_has_a_rate_of_one_half():
    items, orders = study(20, 3)
    answers = simulate_answers(items, orders, ASKED, {})
    answers["origin"] = 1.0
    rates = analyse(answers, items, ASKED, planned=len(answers), draws=200)["questions"]["origin"]["rates"]
    assert all(rate["mean"] == 0.5 for rate in rates.values())


def test_repeated_readings_only_affect_agreement_within_readers():
    items, orders = study(20, 3)
    answers = simulate_answers(items, orders, ASKED, {"generated": -1.0})
    before = analyse(answers, items, ASKED, planned=len(answers), draws=200)
    second = answers["reading"] == 2
    assert second.sum() == 3 * 12
    answers.loc[second, "origin"] = 3.0 - answers.loc[second, "origin"]
    after = analyse(answers, items, ASKED, planned=len(answers), draws=200)
    assert before["questions"]["origin"]["rates"] == after["questions"]["origin"]["rates"]
    own = [r["questions"]["origin"]["agreement_within_readers"] for r in (before, after)]
    assert own[0]["equal"] == pytest.approx(1.0 - own[1]["equal"], abs=1e-6) and own[0]["pairs"] == 36


def test_counts_by_hand():
    items = [Item(f"{k}", arm, f"c{k}", f"p{k}", k % 2) for k, arm in enumerate(["real"] * 4 + ["generated"] * 4)]
    items.append(Item("8", "autoencoder", "c8", "p8", 0))
    given = {"r0": [1, 1, 1, 2, 2, 2, 1, 1, 1], "r1": [1, 1, 2, 2, 2, 2, 2, 1, 2]}
    rows = [
        {"reader": r, "position": k + 1, "item": str(k), "reading": 1, "realism": 1.0, "origin": float(a),
         "pe": 1.0 + k % 2}
        for r, answers in given.items() for k, a in enumerate(answers)
    ]  # fmt: skip
    result = analyse(pd.DataFrame(rows), items, ASKED, planned=len(rows), draws=200)
    entry = result["questions"]["origin"]
    assert entry["rate_by_reader"] == {"r0": (0.75 + 0.5) / 2, "r1": (0.5 + 0.75) / 2}
    assert entry["rates"]["real against generated"]["mean"] == pytest.approx(0.625)
    assert entry["distribution"] == {"real": [5, 3], "autoencoder": [1, 1], "generated": [3, 5]}
    pe = result["questions"]["pe"]
    assert pe["auc"]["real"]["mean"] == 1.0 and pe["auc"]["real"]["positive"] == 2
    assert pe["auc"]["autoencoder"] is None and "with and without PE" in pe["not_measured"]["autoencoder"]
    assert result["questions"]["realism"]["agreement_within_readers"] is None


def test_reader_auc_equals_scikit_learn():
    generator = np.random.default_rng(0)
    scores, label = generator.integers(1, 6, (4, 50)).astype(float), generator.integers(0, 2, 50)
    scores[1, :5] = np.nan
    weights = draw_weights(4, label, draws=200)
    found = weighted_auc(np.where(label == 0, scores, np.nan), np.where(label == 1, scores, np.nan), weights)
    known = [np.isfinite(row) for row in scores]
    expected = [roc_auc_score(label[k], row[k]) for row, k in zip(scores, known, strict=True)]
    assert found[0] == pytest.approx(np.mean(expected))
    draw = 7  # and a resample is the AUC of the cases, drawn as often as its weights say
    times = weights.patients[draw].astype(int)
    drawn = np.repeat(np.arange(50), times)
    aucs = [roc_auc_score(label[drawn][k[drawn]], row[drawn][k[drawn]]) for row, k in zip(scores, known, strict=True)]
    assert found[draw] == pytest.approx(np.average(aucs, weights=weights.readers[draw]))


def test_pe_confidence_recovers_the_simulated_auc():
    result = simulated(0.0, per_arm=100, readers=8, pe_shift=1.5)["questions"]["pe"]
    for arm in ARMS:
        estimate_ = result["auc"][arm]
        assert estimate_["low"] < 0.8 < estimate_["high"] + 0.08 and estimate_["mean"] > 0.7
    difference = result["auc_differences"]["generated minus real"]
    assert difference["low"] < 0 < difference["high"]


@pytest.mark.parametrize("ability", [0.0, 0.5])
@pytest.mark.parametrize("truth", [0.5, 0.6])
def test_the_interval_covers_and_false_equivalence_stays_rare(truth, ability):
    generator, readers, per_arm, studies = np.random.default_rng(1), 5, 40, 150
    spread = np.sqrt(1.0 + READER_SPREAD**2 + CASE_SPREAD**2 + ability**2 / 4.0)
    shift = 2.0 * spread * norm.ppf(truth)  # the shift under which other readers and patients have this rate
    strata = np.repeat([0, 1], per_arm)
    rates = [
        simulated_rate(readers, per_arm, shift, ability, generator, draw_weights(readers, strata, 300, seed))
        for seed in range(studies)
    ]
    assert np.mean([rate["mean"] for rate in rates]) == pytest.approx(truth, abs=0.015)
    assert np.mean([rate["low"] <= truth <= rate["high"] for rate in rates]) >= 0.85
    if truth == 0.6:  # on the margin: a test at 5 %
        assert np.mean([verdict(rate) == "indistinguishable" for rate in rates]) <= 0.08
    else:
        assert np.mean([verdict(rate) == "distinguishable" for rate in rates]) <= 0.09


@pytest.mark.slow
def test_more_readers_and_cases_raise_the_precision():
    small, large = expected_precision(3, 20), expected_precision(10, 120, positives=60)
    assert large["rate_half_width"] < small["rate_half_width"] and large["auc_half_width"] < 0.15
    assert large["chance_of_equivalence"] > 0.8 and small["chance_of_equivalence"] < 0.3
    assert expected_precision(1, 50)["rate_half_width"] is None
