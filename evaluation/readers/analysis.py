"""Results of a reader study: real-or-generated rates, answers as distributions, agreement, readers' PE AUC.

First readings only, but for the agreement of a reader with himself. Intervals draw readers and patients anew
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

CHANCE, MARGIN = 0.5, 0.1  # the rate of guessing, and how far from it still counts as indistinguishable
EQUIVALENCE_LEVEL = 0.9
PRIMARY = ("real", "generated")
PAIRS = (PRIMARY, ("real", "autoencoder"), ("autoencoder", "generated"))


def analyse(
    answers: pd.DataFrame, items: Sequence[Item], questions: Sequence[Question], seed: int = 0, draws: int = DRAWS
) -> dict:
    """Everything `analysis.json` holds; plain JSON.

    Args:
        answers: `reader, position, item, reading` and a column a question, as returned by `study_folder.read_answers`.
        items: the key.
        questions: of the study.
    """
    key = pd.DataFrame([vars(item) for item in items])
    readings = answers.merge(key, on="item", validate="many_to_one")
    first = readings[readings["reading"] == 1]
    readers, patients = sorted(first["reader"].unique()), sorted(key["patient"].unique())
    arms_of = key.groupby("patient")["arm"].agg(lambda arms: "+".join(sorted(set(arms)))).reindex(patients)
    weights = draw_weights(len(readers), arms_of.to_numpy(dtype=str), draws, seed)

    def matrices(question: Question) -> dict[str, Float[np.ndarray, "r p"]]:
        """Answers by arm: rows readers, columns patients, NaN where none was given."""
        return {arm: _matrix(first[first["arm"] == arm], question.name, readers, patients) for arm in ARMS}

    result = {
        "readers": len(readers),
        "patients": len(patients),
        "volumes": {arm: int((key["arm"] == arm).sum()) for arm in ARMS},
        "first_readings": len(first),
        "missing_readings": len(readers) * len(key) - len(first),
        "repeated_readings": int((readings["reading"] > 1).sum()),
        "bootstrap": {"draws": draws, "seed": seed, "unit": "reader and patient", "level": LEVEL},
        "warnings": _warnings(len(readers), key),
        "questions": {},
    }
    for question in questions:
        by_arm = matrices(question)
        entry = {
            "kind": question.kind,
            "choices": list(question.choices),
            "distribution": {arm: _distribution(values, question) for arm, values in by_arm.items()},
            "agreement_within_readers": _self_agreement(readings, question, draws, seed),
        }
        if question.kind == IDENTITY:
            entry |= _identity(by_arm, readers, weights)
        else:
            entry["alpha"] = _alphas(first, question, readers, draws, seed)
        if question.kind == ORDINAL:
            entry["higher"] = {
                f"{other} over {one}": _auc(by_arm[one], by_arm[other], weights) for one, other in PAIRS
            }
        if question.kind == PE:
            entry |= _pe_auc(by_arm, key, patients, weights)
        result["questions"][question.name] = entry
    result["statement"] = statement(result)
    return result


def verdict(rate: dict) -> str:
    """Verdict on a rate from its 90 % interval: `indistinguishable`, `told apart` or `undecided`."""
    if rate["low"] is None:
        return "undecided"
    if rate["low"] >= CHANCE - MARGIN and rate["high"] <= CHANCE + MARGIN:
        return "indistinguishable"
    return "told apart" if rate["low"] > CHANCE or rate["high"] < CHANCE else "undecided"


def statement(result: dict) -> str:
    """The outcome of the primary comparison in a sentence, with its warnings."""
    asked = [entry for entry in result["questions"].values() if entry["kind"] == IDENTITY]
    if not asked:
        return "Nobody was asked whether a volume is real: nothing can be said about telling them apart."
    rate = asked[0]["rates"][" against ".join(PRIMARY)]
    if rate["mean"] is None:
        return "No reader answered for both real and generated volumes: nothing can be said."
    readers, cases = result["readers"], min(result["volumes"].values())
    start = f"{readers} reader{'s' * (readers > 1)} named real and generated CT rightly in {100 * rate['mean']:.0f} %"
    if rate["low"] is None:
        return f"{start}; too few readers or patients for an interval, so nothing is claimed."
    start += f" (90 % interval {100 * rate['low']:.0f} to {100 * rate['high']:.0f} %; guessing is 50 %)"
    end = {
        "indistinguishable": "the interval lies within 50 ± 10 %, so they are indistinguishable to such readers",
        "told apart": "the interval leaves 50 % out, so readers tell them apart",
        "undecided": "the interval neither lies within 50 ± 10 % nor leaves 50 % out, so nothing is shown",
    }[rate["verdict"]]
    few = f" Few: {readers} readers, {cases} volumes in the smallest arm." if result["warnings"] else ""
    return f"{start}: {end}.{few}"


def _matrix(rows: pd.DataFrame, name: str, readers: list[str], patients: list[str]) -> Float[np.ndarray, "r p"]:
    table = rows.pivot_table(index="reader", columns="patient", values=name, aggfunc="mean", dropna=False)
    return table.reindex(index=readers, columns=patients).to_numpy(dtype=np.float64)


def _distribution(values: Float[np.ndarray, "r p"], question: Question) -> list[int]:
    return [int((values == number).sum()) for number in range(1, len(question.choices) + 1)]


def _identity(by_arm: dict, readers: list[str], weights: Weights) -> dict:
    """Rates of distinguishing two arms: the mean of the share of the first called real and of the second generated.

    The autoencoder's volumes stand for generated ones beside real CT, and for real ones beside generated CT. The mean
    of both shares is 50 % for a reader who always gives one answer.
    """
    called_real = {arm: np.where(np.isfinite(v), (v == 1).astype(float), np.nan) for arm, v in by_arm.items()}
    rates = {}
    for one, other in PAIRS:

        def rate(w: Weights, one: str = one, other: str = other) -> np.ndarray:
            return (weighted_rate(called_real[one], w) + 1.0 - weighted_rate(called_real[other], w)) / 2.0

        found = estimate(rate, weights, EQUIVALENCE_LEVEL).as_dict()
        rates[f"{one} against {other}"] = found | {"level": EQUIVALENCE_LEVEL, "verdict": verdict(found)}
    alone = {}
    for number, reader in enumerate(readers):
        shares = [called_real[arm][number] for arm in PRIMARY]
        if all(np.isfinite(share).any() for share in shares):
            alone[reader] = round(float(np.nanmean(shares[0]) + 1.0 - np.nanmean(shares[1])) / 2.0, 6)
    return {
        "rates": rates,
        "rate_by_reader": alone,
        "called_real": {
            arm: estimate(lambda w, v=values: weighted_rate(v, w), weights, LEVEL).as_dict()
            for arm, values in called_real.items()
        },
    }


def _auc(low: np.ndarray, high: np.ndarray, weights: Weights) -> dict:
    return estimate(lambda w: weighted_auc(low, high, w), weights, LEVEL).as_dict()


def _pe_auc(by_arm: dict, key: pd.DataFrame, patients: list[str], weights: Weights) -> dict:
    """AUC of the readers' confidence against the label, averaged over readers, by arm, and its differences."""
    label = key.drop_duplicates("patient").set_index("patient")["label"].reindex(patients).to_numpy()
    parts = {arm: (np.where(label == 0, v, np.nan), np.where(label == 1, v, np.nan)) for arm, v in by_arm.items()}
    possible = [arm for arm, (no, yes) in parts.items() if np.isfinite(no).any() and np.isfinite(yes).any()]
    found: dict = {"auc": dict.fromkeys(ARMS), "auc_differences": {}, "not_measured": {}}
    for arm in ARMS:
        if arm in possible:
            cases = {"positive": parts[arm][1], "negative": parts[arm][0]}
            counts = {name: int(np.isfinite(v).any(axis=0).sum()) for name, v in cases.items()}
            value = _auc(*parts[arm], weights)
            if min(counts.values()) < FEWEST or value["low"] == value["high"]:  # the latter: every draw separates
                value |= {"low": None, "high": None}
            found["auc"][arm] = value | counts
        else:
            found["not_measured"][arm] = "needs volumes of patients with and without PE whose label is known"
    for one, other in combinations(possible, 2):

        def difference(w: Weights, one: str = one, other: str = other) -> np.ndarray:
            return weighted_auc(*parts[other], w) - weighted_auc(*parts[one], w)

        value = estimate(difference, weights, LEVEL).as_dict()
        if any(found["auc"][arm]["low"] is None for arm in (one, other)):
            value |= {"low": None, "high": None}
        found["auc_differences"][f"{other} minus {one}"] = value
    return found


def _alphas(first: pd.DataFrame, question: Question, readers: list[str], draws: int, seed: int) -> dict:
    """Krippendorff's alpha between readers, over all volumes and by arm."""
    found = {}
    for name, rows in [("all", first), *((arm, first[first["arm"] == arm]) for arm in ARMS)]:
        table = rows.pivot_table(index="reader", columns="item", values=question.name, aggfunc="mean", dropna=False)
        owners = rows.drop_duplicates("item").set_index("item")["patient"].reindex(table.columns)
        owners = owners.to_numpy(dtype=str)
        ratings = table.reindex(index=readers).to_numpy(dtype=np.float64)
        found[name] = krippendorff(ratings, len(question.choices), owners, draws, seed).as_dict()
    return found


def _self_agreement(readings: pd.DataFrame, question: Question, draws: int, seed: int) -> dict | None:
    """How a reader answers the same volume again: alpha of both readings, and the share of equal answers."""
    twice = readings[readings["reading"] <= 2].pivot_table(
        index=["reader", "item"], columns="reading", values=question.name, aggfunc="mean", dropna=False
    )
    if 2 not in twice.columns:
        return None
    twice = twice.dropna()
    if twice.empty:
        return None
    owner = readings.drop_duplicates("item").set_index("item")["patient"]
    patients = owner.reindex(twice.index.get_level_values("item")).to_numpy(dtype=str)
    pairs = twice[[1, 2]].to_numpy(dtype=np.float64)
    alpha = krippendorff(pairs.T, len(question.choices), patients, draws, seed).as_dict()
    return {"pairs": len(pairs), "equal": round(float((pairs[:, 0] == pairs[:, 1]).mean()), 6), "alpha": alpha}


def _warnings(readers: int, key: pd.DataFrame) -> list[str]:
    smallest = min(int((key["arm"] == arm).sum()) for arm in ARMS)
    found = []
    if readers < FEW_READERS:
        found.append(f"{readers} readers: below {FEW_READERS} the interval says little about other readers")
    if smallest < FEW_CASES:
        found.append(f"{smallest} volumes in the smallest arm: below {FEW_CASES} little can be shown")
    return found
