"""Results of a reader study: real-or-generated rates, answers as distributions, agreement, readers' PE AUC.

Only agreement within readers uses repeated readings. Intervals resample readers and patients
(`evaluation.readers.two_way_bootstrap`). The statements are fixed in advance: `indistinguishable` only
where the 90 % interval of the rate lies within 50 ± 10 %, which is two one-sided tests at 5 % (Schuirmann 1987).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.readers.design import ARMS, FEW_CASES, FEW_READERS, Item
from evaluation.readers.krippendorff import krippendorff
from evaluation.readers.questions import IDENTITY, ORDINAL, PE, Question
from evaluation.readers.two_way_bootstrap import FEWEST, Weights, draw_weights, estimate, weighted_auc, weighted_rate
from evaluation.statistics.patient_bootstrap import DRAWS, LEVEL

CHANCE, MARGIN = 0.5, 0.1  # the rate of random answers, and how far from it still counts as indistinguishable
EQUIVALENCE_LEVEL = 0.9
PRIMARY = ("real", "generated")
PAIRS = (PRIMARY, ("real", "autoencoder"), ("autoencoder", "generated"))


def analyse(
    answers: pd.DataFrame,
    items: Sequence[Item],
    questions: Sequence[Question],
    planned: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict:
    """The content of `analysis.json` from the answers (`study_folder.read_answers`) and the items of the key.

    `planned` is the number of first readings of the complete study.
    """
    key = pd.DataFrame([vars(item) for item in items])
    readings = answers.merge(key, on="item", validate="many_to_one")
    first = readings[readings["reading"] == 1]
    readers, patients = sorted(first["reader"].unique()), sorted(key["patient"].unique())
    arms_of = key.groupby("patient")["arm"].agg(lambda arms: "+".join(sorted(set(arms)))).reindex(patients)
    weights = draw_weights(len(readers), arms_of.to_numpy(dtype=str), draws, seed)
    volumes = {arm: int((key["arm"] == arm).sum()) for arm in ARMS}
    result = {
        "readers": len(readers),
        "patients": len(patients),
        "volumes": volumes,
        "first_readings": len(first),
        "missing_readings": planned - len(first),
        "repeated_readings": int((readings["reading"] > 1).sum()),
        "bootstrap": {"draws": draws, "seed": seed, "unit": "reader and patient", "level": LEVEL},
        "warnings": _warnings(len(readers), min(volumes.values())),
        "questions": {},
    }
    for question in questions:
        by_arm = {}  # rows readers, columns patients, NaN for a missing answer
        for arm in ARMS:
            table = _answers(first[first["arm"] == arm], question, "reader", "patient")
            by_arm[arm] = table.reindex(index=readers, columns=patients).to_numpy(dtype=np.float64)
        numbers = range(1, len(question.choices) + 1)
        entry = {
            "kind": question.kind,
            "choices": list(question.choices),
            "distribution": {arm: [int((v == n).sum()) for n in numbers] for arm, v in by_arm.items()},
            "agreement_within_readers": _self_agreement(readings, question, draws, seed),
        }
        if question.kind == IDENTITY:
            entry |= _identity(by_arm, readers, weights)
        else:
            entry["alpha"] = _alphas(first, question, readers, draws, seed)
        if question.kind == ORDINAL:
            entry["higher"] = {
                f"{other} over {one}": estimate(
                    weighted_auc(by_arm[one], by_arm[other], weights), weights, LEVEL
                ).as_dict()
                for one, other in PAIRS
            }
        if question.kind == PE:
            entry |= _pe_auc(by_arm, key, patients, weights)
        result["questions"][question.name] = entry
    result["statement"] = _statement(result)
    return result


def verdict(rate: dict) -> str:
    """Verdict: `indistinguishable` by the 90 % interval of a rate, `distinguishable` by the 95 % one, `undecided`.

    Equivalence is two one-sided tests at 5 %, whose interval is that of 90 %; a difference is a two-sided test at 5 %.
    """
    if rate["low"] is None:
        return "undecided"
    if rate["low"] >= CHANCE - MARGIN and rate["high"] <= CHANCE + MARGIN:
        return "indistinguishable"
    return "distinguishable" if rate["low_95"] > CHANCE or rate["high_95"] < CHANCE else "undecided"


def rate_of(values: Float[np.ndarray, " draws"], weights: Weights) -> dict:
    """A rate with its 90 % interval `low`, `high`, its 95 % interval `low_95`, `high_95`, and its verdict."""
    found = estimate(values, weights, EQUIVALENCE_LEVEL).as_dict()
    wide = estimate(values, weights, LEVEL).as_dict()
    found |= {"low_95": wide["low"], "high_95": wide["high"], "level": EQUIVALENCE_LEVEL}
    return found | {"verdict": verdict(found)}


def _statement(result: dict) -> str:
    """The outcome of the primary comparison in a sentence, with its warnings."""
    asked = [entry for entry in result["questions"].values() if entry["kind"] == IDENTITY]
    if not asked:
        return "The study has no question whether a volume is real, so it shows nothing about real and generated CT."
    rate = asked[0]["rates"][" against ".join(PRIMARY)]
    if rate["mean"] is None:
        return "No reader answered for both real and generated volumes, so the study shows nothing about them."
    readers, cases = result["readers"], min(result["volumes"].values())
    who = f"{readers} reader{'s' * (readers > 1)}"
    start = f"{who} identified real and generated CT correctly in {100 * rate['mean']:.0f} %"
    if rate["low"] is None:
        return f"{start}; too few readers or patients for an interval, so nothing is claimed."
    start += f" (90 % interval {100 * rate['low']:.0f} to {100 * rate['high']:.0f} %, "
    start += f"95 % {100 * rate['low_95']:.0f} to {100 * rate['high_95']:.0f} %; chance is 50 %)"
    end = {
        "indistinguishable": "the 90 % interval lies within 50 ± 10 %, so they are indistinguishable to such readers",
        "distinguishable": "the 95 % interval excludes 50 %, so readers distinguish them",
        "undecided": "the 90 % interval exceeds 50 ± 10 % and the 95 % interval contains 50 %, so nothing is shown",
    }[rate["verdict"]]
    few = f" Few: {readers} readers, {cases} volumes in the smallest arm." if result["warnings"] else ""
    return f"{start}: {end}.{few}"


def _answers(rows: pd.DataFrame, question: Question, index: str | list[str], columns: str) -> pd.DataFrame:
    return rows.pivot_table(index=index, columns=columns, values=question.name, aggfunc="mean", dropna=False)


def _identity(by_arm: dict, readers: list[str], weights: Weights) -> dict:
    """Rates of distinguishing two arms: the mean of the share of the first called real and of the second generated.

    The autoencoder's volumes count as generated beside real CT, and as real beside generated CT. The mean of both
    shares is 50 % for a reader who always gives one answer.
    """
    called_real = {arm: np.where(np.isfinite(v), (v == 1).astype(float), np.nan) for arm, v in by_arm.items()}
    shares, rates, alone = {arm: weighted_rate(v, weights) for arm, v in called_real.items()}, {}, {}
    for one, other in PAIRS:
        rates[f"{one} against {other}"] = rate_of((shares[one] + 1.0 - shares[other]) / 2.0, weights)
    for number, reader in enumerate(readers):
        real, generated = (called_real[arm][number] for arm in PRIMARY)
        if np.isfinite(real).any() and np.isfinite(generated).any():
            alone[reader] = round(float(np.nanmean(real) + 1.0 - np.nanmean(generated)) / 2.0, 6)
    own = {arm: estimate(share, weights, LEVEL).as_dict() for arm, share in shares.items()}
    return {"rates": rates, "rate_by_reader": alone, "called_real": own}


def _pe_auc(by_arm: dict, key: pd.DataFrame, patients: list[str], weights: Weights) -> dict:
    """AUC of the readers' confidence against the label, averaged over readers, by arm, and its differences."""
    label = key.drop_duplicates("patient").set_index("patient")["label"].reindex(patients).to_numpy()
    found: dict = {"auc": dict.fromkeys(ARMS), "auc_differences": {}, "not_measured": {}}
    drawn = {}
    for arm, values in by_arm.items():
        parts = {"positive": np.where(label == 1, values, np.nan), "negative": np.where(label == 0, values, np.nan)}
        counts = {name: int(np.isfinite(part).any(axis=0).sum()) for name, part in parts.items()}
        if min(counts.values()) == 0:
            found["not_measured"][arm] = "needs volumes of patients with and without PE whose label is known"
            continue
        drawn[arm] = weighted_auc(parts["negative"], parts["positive"], weights)
        value = estimate(drawn[arm], weights, LEVEL).as_dict()
        if min(counts.values()) < FEWEST or value["low"] == value["high"]:  # the latter: every draw separates
            value |= {"low": None, "high": None}
        found["auc"][arm] = value | counts
    for one, other in combinations(drawn, 2):
        value = estimate(drawn[other] - drawn[one], weights, LEVEL).as_dict()
        if any(found["auc"][arm]["low"] is None for arm in (one, other)):
            value |= {"low": None, "high": None}
        found["auc_differences"][f"{other} minus {one}"] = value
    return found


def _alphas(first: pd.DataFrame, question: Question, readers: list[str], draws: int, seed: int) -> dict:
    """Krippendorff's alpha between readers, over all volumes and by arm."""
    found = {}
    for name, rows in [("all", first), *((arm, first[first["arm"] == arm]) for arm in ARMS)]:
        table = _answers(rows, question, "reader", "item")
        owners = rows.drop_duplicates("item").set_index("item")["patient"].reindex(table.columns).to_numpy(dtype=str)
        ratings = table.reindex(index=readers).to_numpy(dtype=np.float64)
        found[name] = krippendorff(ratings, len(question.choices), owners, draws, seed).as_dict()
    return found


def _self_agreement(readings: pd.DataFrame, question: Question, draws: int, seed: int) -> dict | None:
    """Agreement of a reader's two readings of a volume: their alpha, and the share of equal answers."""
    twice = _answers(readings[readings["reading"] <= 2], question, ["reader", "item"], "reading").dropna()
    if 2 not in twice.columns or twice.empty:
        return None
    owner = readings.drop_duplicates("item").set_index("item")["patient"]
    patients = owner.reindex(twice.index.get_level_values("item")).to_numpy(dtype=str)
    pairs = twice[[1, 2]].to_numpy(dtype=np.float64)
    alpha = krippendorff(pairs.T, len(question.choices), patients, draws, seed).as_dict()
    return {"pairs": len(pairs), "equal": round(float((pairs[:, 0] == pairs[:, 1]).mean()), 6), "alpha": alpha}


def _warnings(readers: int, smallest: int) -> list[str]:
    found = []
    if readers < FEW_READERS:
        found.append(f"{readers} readers: below {FEW_READERS} the interval says little about other readers")
    if smallest < FEW_CASES:
        found.append(f"{smallest} volumes in the smallest arm: below {FEW_CASES} little can be shown")
    return found
