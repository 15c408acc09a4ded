"""Simulated readers with a known truth, for the expected precision of a study and tests of its analysis."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from evaluation.readers.analysis import EQUIVALENCE_LEVEL, verdict
from evaluation.readers.design import Item
from evaluation.readers.questions import IDENTITY, PE, Question
from evaluation.readers.two_way_bootstrap import Weights, draw_weights, estimate, weighted_auc, weighted_rate
from evaluation.statistics.patient_bootstrap import LEVEL

READER_SPREAD = 0.3  # standard deviation between readers, in units of what one reading varies by
CASE_SPREAD = 0.5  # and between cases
ABILITY_SPREAD = 0.3  # between readers, of how far apart real and generated seem to each
SIMULATED, SIMULATED_DRAWS = 100, 400
ASSUMED_AUC_SHIFT = 1.2  # distance of cases with PE from those without, an AUC of about 0.8


def impressions(
    readers: int, cases: int, mean: float, generator: np.random.Generator, own: Float[np.ndarray, "r 1"] | None = None
) -> Float[np.ndarray, "r p"]:
    """Latent impression of each reader and case: reader effect, case effect and noise."""
    own = READER_SPREAD * generator.standard_normal((readers, 1)) if own is None else own
    shared = CASE_SPREAD * generator.standard_normal((1, cases))
    return mean + own + shared + generator.standard_normal((readers, cases))


def simulate_answers(
    items: Sequence[Item],
    orders: dict[str, list[str]],
    questions: Sequence[Question],
    shifts: dict[str, float],
    pe_shift: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Answers as from `study_folder.read_answers`, of readers whose impression of an arm is moved by `shifts[arm]`.

    A higher impression is a better answer, or `real`; `pe_shift` moves the PE confidence of positive cases.
    """
    generator = np.random.default_rng(seed)
    by_code, rows = {item.item: item for item in items}, []
    leaning = {item.item: CASE_SPREAD * generator.standard_normal() for item in items}
    for reader, order in orders.items():
        own, seen = READER_SPREAD * generator.standard_normal(), {}
        for position, code in enumerate(order, start=1):
            item = by_code[code]
            seen[code] = seen.get(code, 0) + 1
            row = {"reader": reader, "position": position, "item": code, "reading": seen[code]}
            for question in questions:
                felt = leaning[code] + own + generator.standard_normal()
                felt += pe_shift * (item.label == 1) if question.kind == PE else shifts.get(item.arm, 0.0)
                if question.kind == IDENTITY:
                    row[question.name] = 1.0 if felt > 0 else 2.0
                else:
                    edges = np.linspace(-1.2, 1.2, len(question.choices) - 1)
                    row[question.name] = float(np.searchsorted(edges, felt) + 1)
            rows.append(row)
    return pd.DataFrame(rows)


def expected_precision(readers: int, per_arm: int, positives: int | None = None, seed: int = 0) -> dict:
    """Expected precision of a study of this size, from simulations in which real and generated do not differ.

    Returns:
        `rate_half_width`: of the 90 % interval of the real-or-generated rate; `chance_of_equivalence`: how often
        volumes that truly cannot be told apart are called indistinguishable; `auc_half_width`: of the 95 % interval
        of readers' PE AUC near 0.8, None without cases of both kinds; and the spreads that were assumed.
    """
    generator = np.random.default_rng(seed)
    widths, found, auc_widths = [], [], []
    strata = np.repeat([0, 1], per_arm)
    for number in range(SIMULATED):
        weights = draw_weights(readers, strata, SIMULATED_DRAWS, seed + number)
        rate = simulated_rate(readers, per_arm, 0.0, ABILITY_SPREAD, generator, weights)
        found.append(verdict(rate) == "indistinguishable")
        if rate["low"] is not None:
            widths.append((rate["high"] - rate["low"]) / 2.0)
        if positives and 0 < positives < per_arm:
            width = _auc_half_width(readers, per_arm, positives, generator, seed + number)
            auc_widths += [] if width is None else [width]
    return {
        "readers": readers,
        "cases_per_arm": per_arm,
        "rate_half_width": round(float(np.mean(widths)), 4) if widths else None,
        "chance_of_equivalence": round(float(np.mean(found)), 3),
        "auc_half_width": round(float(np.mean(auc_widths)), 4) if auc_widths else None,
        "assumed": {"reader_spread": READER_SPREAD, "case_spread": CASE_SPREAD, "ability_spread": ABILITY_SPREAD}
        | {"studies": SIMULATED},
    }


def simulated_rate(
    readers: int, per_arm: int, shift: float, ability: float, generator: np.random.Generator, weights: Weights
) -> dict:
    """The real-or-generated rate of one simulated study, with its 90 % interval.

    Args:
        shift: how far apart real and generated seem to the average reader, in units of what one reading varies by.
        ability: standard deviation of that between readers.
        weights: of `draw_weights(readers, [0] * per_arm + [1] * per_arm)`.
    """
    felt = impressions(readers, 2 * per_arm, 0.0, generator)
    half = (shift + ability * generator.standard_normal((readers, 1))) / 2.0
    real, generated = np.full_like(felt, np.nan), np.full_like(felt, np.nan)
    real[:, :per_arm] = felt[:, :per_arm] > -half
    generated[:, per_arm:] = felt[:, per_arm:] > half
    return estimate(
        lambda w: (weighted_rate(real, w) + 1.0 - weighted_rate(generated, w)) / 2.0, weights, EQUIVALENCE_LEVEL
    ).as_dict()


def _auc_half_width(
    readers: int, cases: int, positives: int, generator: np.random.Generator, seed: int
) -> float | None:
    felt = impressions(readers, cases, 0.0, generator)
    felt[:, :positives] += ASSUMED_AUC_SHIFT
    confidence = np.searchsorted(np.linspace(-0.8, 2.0, 4), felt) + 1.0
    positive, negative = np.full_like(confidence, np.nan), confidence.copy()
    positive[:, :positives], negative[:, :positives] = confidence[:, :positives], np.nan
    weights = draw_weights(readers, (np.arange(cases) < positives).astype(int), SIMULATED_DRAWS, seed)
    found = estimate(lambda w: weighted_auc(negative, positive, w), weights, LEVEL)
    return None if found.low is None else (found.high - found.low) / 2.0
