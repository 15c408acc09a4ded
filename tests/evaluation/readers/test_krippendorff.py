"""Krippendorff's alpha against the published example and against its definition, pair by pair."""

import numpy as np
import pytest

from evaluation.readers.krippendorff import krippendorff

N = np.nan
# K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example D: 4 observers, 12 units, gaps.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
)


def by_definition(ratings: np.ndarray, levels: int) -> float:
    """One minus observed over expected disagreement, from loops over every pair of ratings."""
    units = [column[np.isfinite(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    pooled = np.concatenate(units)
    counts = [np.sum(pooled == level) for level in range(1, levels + 1)]

    def distance(a: float, b: float) -> float:
        low, high = sorted((int(a), int(b)))
        return (sum(counts[low - 1 : high]) - (counts[low - 1] + counts[high - 1]) / 2) ** 2

    observed = 0.0
    for unit in units:
        for i, a in enumerate(unit):
            observed += sum(distance(a, b) for j, b in enumerate(unit) if i != j) / (len(unit) - 1)
    expected = sum(distance(a, b) for i, a in enumerate(pooled) for j, b in enumerate(pooled) if i != j)
    return 1.0 - (observed / len(pooled)) / (expected / (len(pooled) * (len(pooled) - 1)))


def test_the_published_example():
    assert krippendorff(PUBLISHED, 5).mean == pytest.approx(0.815, abs=5e-4)
    assert by_definition(PUBLISHED, 5) == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_any_ratings_agree_with_the_definition(seed):
    generator = np.random.default_rng(seed)
    ratings = generator.integers(1, 5, (4, 9)).astype(float)
    ratings[generator.random(ratings.shape) < 0.25] = np.nan
    assert krippendorff(ratings, 4, draws=100).mean == pytest.approx(by_definition(ratings, 4), abs=1e-9)


def test_full_agreement_chance_and_constant_ratings():
    same = np.tile([1.0, 2.0, 4.0, 4.0], (3, 1))
    assert krippendorff(same, 4).mean == 1.0
    random = np.random.default_rng(0).integers(1, 5, (3, 3000)).astype(float)
    assert krippendorff(random, 4, draws=100).mean == pytest.approx(0.0, abs=0.03)
    assert krippendorff(np.full((3, 5), 2.0), 4).mean is None  # nothing varies, so agreement equals chance
    assert krippendorff(np.array([[1.0, 2.0], [N, N]]), 4).mean is None
    with pytest.raises(ValueError, match="from 1 to 4"):
        krippendorff(np.array([[0.0], [5.0]]), 4)


def test_the_interval_covers_and_keeps_patients_together():
    generator = np.random.default_rng(1)
    truth = generator.integers(1, 5, 60)
    noisy = np.clip(truth + generator.integers(-1, 2, (4, 60)), 1, 4).astype(float)
    alone = krippendorff(noisy, 4)
    assert alone.low < alone.mean < alone.high
    doubled = krippendorff(np.tile(noisy, 2), 4, np.tile(np.arange(60), 2))
    assert doubled.high - doubled.low == pytest.approx(alone.high - alone.low, rel=0.1)  # no patient, no information
