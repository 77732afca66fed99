"""Intervals over scenarios and seeds: they hold the truth as often as they say."""

import numpy as np
import pytest

from worldcompass.ablation.intervals import crossed, student_quantile

# Deviations between seeds, between scenarios, and of what is left.
DESIGNS = {"seeds": (1.0, 0.1, 0.1), "scenarios": (0.1, 1.0, 0.1), "both": (0.3, 1.0, 1.0)}
TRIALS = 600
WIDER = 0.6  # of the misses at most, where noise of single videos counts twice


def share_of_hits(of_seed, of_scenario, rest, level, seeds=3, scenarios=24):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        values_KV = 0.7 + (
            of_seed * rng.standard_normal((seeds, 1))
            + of_scenario * rng.standard_normal((1, scenarios))
            + rest * rng.standard_normal((seeds, scenarios))
        )
        found = crossed(values_KV, level)
        hits += found.low <= 0.7 <= found.high
    return hits / TRIALS


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_the_truth_at_their_nominal_rate(design, level):
    error = 3 * (level * (1 - level) / TRIALS) ** 0.5
    found = share_of_hits(*DESIGNS[design], level)
    assert level - error <= found <= level + error + WIDER * (1 - level)


def test_noise_of_single_videos_alone_makes_them_too_wide_and_never_too_narrow():
    assert share_of_hits(0.0, 0.0, 1.0, 0.95) > 0.95


def test_all_rows_of_a_measure_together_rarely_raise_a_false_alarm():
    """Twenty variants without any effect; at so high a level the degrees of freedom of three seeds are a guess."""
    rng, alarms, grids = np.random.default_rng(1), 0, 200
    for _ in range(grids):
        found = [
            crossed(rng.standard_normal((1, 24)) + rng.standard_normal((3, 24)), 1 - 0.05 / 20)
            for _ in range(20)
        ]
        alarms += any(value.rises or value.falls for value in found)
    assert alarms / grids < 0.05 + 3 * (0.05 * 0.95 / grids) ** 0.5


def test_quantiles_of_students_t_against_tables():
    found = [
        student_quantile(*asked) for asked in ((0.95, 1), (0.95, 2), (0.99, 5), (0.9975, 2), (0.95, 1000))
    ]
    assert found == pytest.approx([12.706, 4.303, 4.032, 19.962, 1.962], rel=1e-3)


def test_one_seed_speaks_of_scenarios_alone_and_one_scenario_of_nothing():
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    one = crossed(values, 0.95)
    half = 3.182 * np.std(values, ddof=1) / 2
    assert (one.mean, one.low, one.high, one.n) == pytest.approx((2.5, 2.5 - half, 2.5 + half, 4), rel=1e-3)
    assert not crossed(np.array([[1.0], [2.0]]), 0.95).bounded
    same = crossed(np.ones((3, 4)), 0.95)
    assert (same.low, same.high) == (1.0, 1.0)
