"""The expected precision of a study, from simulated readers with a known truth."""

import numpy as np
from jaxtyping import Float

from evaluation.readers.analysis import rate_of
from evaluation.readers.two_way_bootstrap import Weights, draw_weights, estimate, weighted_auc, weighted_rate
from evaluation.statistics.patient_bootstrap import LEVEL

READER_SPREAD = 0.3  # standard deviation between readers, in standard deviations of one reading
CASE_SPREAD = 0.5  # and between cases
ABILITY_SPREAD = 0.3  # between readers, of how far apart real and generated seem to each
SIMULATED, SIMULATED_DRAWS = 100, 400
ASSUMED_AUC_SHIFT = 1.2  # distance of cases with PE from those without, an AUC of about 0.8


def impressions(readers: int, cases: int, generator: np.random.Generator) -> Float[np.ndarray, "r p"]:
    """Latent impression of each reader and case: reader effect, case effect and noise."""
    own = READER_SPREAD * generator.standard_normal((readers, 1))
    shared = CASE_SPREAD * generator.standard_normal((1, cases))
    return own + shared + generator.standard_normal((readers, cases))


def expected_precision(readers: int, per_arm: int, positives: int | None = None, seed: int = 0) -> dict:
    """Expected precision of a study of this size, from simulations in which real and generated do not differ.

    Returns:
        `rate_half_width`: of the 90 % interval of the real-or-generated rate; `chance_of_equivalence`: how often
        truly indistinguishable volumes get this verdict; `auc_half_width`: of the 95 % interval of readers' PE AUC
        near 0.8, None without cases of both kinds; and the assumed spreads.
    """
    generator = np.random.default_rng(seed)
    widths, found, auc_widths = [], [], []
    strata = np.repeat([0, 1], per_arm)
    for number in range(SIMULATED):
        weights = draw_weights(readers, strata, SIMULATED_DRAWS, seed + number)
        rate = simulated_rate(readers, per_arm, 0.0, ABILITY_SPREAD, generator, weights)
        found.append(rate["verdict"] == "indistinguishable")
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

    `shift` is the mean difference of impression between real and generated, in standard deviations of a reading,
    `ability` its standard deviation between readers.
    """
    felt = impressions(readers, 2 * per_arm, generator)
    half = (shift + ability * generator.standard_normal((readers, 1))) / 2.0
    real, generated = np.full_like(felt, np.nan), np.full_like(felt, np.nan)
    real[:, :per_arm] = felt[:, :per_arm] > -half
    generated[:, per_arm:] = felt[:, per_arm:] > half
    rate = (weighted_rate(real, weights) + 1.0 - weighted_rate(generated, weights)) / 2.0
    return rate_of(rate, weights)


def _auc_half_width(
    readers: int, cases: int, positives: int, generator: np.random.Generator, seed: int
) -> float | None:
    felt = impressions(readers, cases, generator)
    felt[:, :positives] += ASSUMED_AUC_SHIFT
    confidence = np.searchsorted(np.linspace(-0.8, 2.0, 4), felt) + 1.0
    positive, negative = np.full_like(confidence, np.nan), confidence.copy()
    positive[:, :positives], negative[:, :positives] = confidence[:, :positives], np.nan
    weights = draw_weights(readers, (np.arange(cases) < positives).astype(int), SIMULATED_DRAWS, seed)
    found = estimate(weighted_auc(negative, positive, weights), weights, LEVEL)
    return None if found.low is None else (found.high - found.low) / 2.0
