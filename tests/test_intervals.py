"""Intervals over scenarios and seeds: they hold the truth as often as they say."""

import numpy as np
import pytest

from worldcompass.statistics import Crossing, crossed, crossed_over, resamples, student

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


@pytest.mark.parametrize("design", DESIGNS)
def test_shares_of_a_gap_and_values_of_whole_sets_hold_the_truth_as_often(design):
    """What is no mean over videos: the ratio of two means, and a distance that only a set of scenarios has."""
    of_seed, of_scenario, rest = (0.1 * part for part in DESIGNS[design])
    rng, trials, seeds, scenarios = np.random.default_rng(0), 300, 3, 24
    names = [f"{scenario:02d}" for scenario in range(scenarios)]
    rows_BS = np.concatenate([np.arange(scenarios)[None], resamples(names, 0, 200)])
    crossing, hits = Crossing.of(names * seeds, count=1), np.zeros(2)
    for _ in range(trials):
        base_S = 0.4 + 0.05 * rng.standard_normal(scenarios)
        gained_KS = (
            0.2
            + of_seed * rng.standard_normal((seeds, 1))
            + of_scenario * rng.standard_normal((1, scenarios))
            + rest * rng.standard_normal((seeds, scenarios))
        )
        base, engine = np.tile(base_S, seeds), np.full(seeds * scenarios, 0.9)
        closed = crossing.share_closed(engine, base, base + gained_KS.ravel())
        assert closed.mean == pytest.approx(gained_KS.mean() / (0.9 - base_S.mean()))
        of_sets = crossed_over(np.exp(gained_KS[:, rows_BS].mean(2)), scenarios)
        truth = 0.2 / 0.5, np.exp(0.2 + of_seed**2 / 2)  # the mean over all seeds there could be
        hits += [one.low <= true <= one.high for one, true in zip((closed, of_sets), truth, strict=True)]
    error = 3 * (0.95 * 0.05 / trials) ** 0.5
    assert ((0.95 - error <= hits / trials) & (hits / trials <= 0.95 + error + WIDER * 0.05)).all(), hits


def test_what_a_mean_has_from_its_formula_a_bootstrap_of_sets_finds_too():
    rng = np.random.default_rng(0)
    values_KS = rng.standard_normal((3, 1)) + rng.standard_normal((1, 24)) + rng.standard_normal((3, 24))
    rows_BS = np.concatenate([np.arange(24)[None], resamples([f"{i:02d}" for i in range(24)])])
    by_formula, by_sets = crossed(values_KS), crossed_over(values_KS[:, rows_BS].mean(2), 24)
    assert (by_sets.mean, by_sets.n) == (pytest.approx(by_formula.mean), by_formula.n)
    assert [by_sets.low, by_sets.high] == pytest.approx([by_formula.low, by_formula.high], rel=0.05)


def test_videos_are_crossed_by_the_names_of_their_scenarios_in_whatever_order():
    values = {"a": (1.0, 2.0), "b": (4.0, 3.0), "c": (5.0, 9.0)}
    names = ["c", "a", "b", "b", "a", "c"]
    order = [values[name][i // 3] for i, name in enumerate(names)]
    found = Crossing.of(names).mean(np.array(order))
    assert found == crossed(np.array([[1.0, 4.0, 5.0], [2.0, 3.0, 9.0]]))
    whole_KS = Crossing.of(names, count=5).by_seed()[:, 0]
    assert np.array(names)[whole_KS].tolist() == [["a", "b", "c"]] * 2
    assert np.array(order)[whole_KS].tolist() == [[1, 4, 5], [2, 3, 9]]


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
        student(*asked)
        for asked in ((0.95, 1), (0.95, 2), (0.99, 5), (0.9975, 2), (0.95, 1000), (0.999, 1e6))
    ]
    assert found == pytest.approx([12.706, 4.303, 4.032, 19.962, 1.962, 3.291], rel=1e-3)


def test_one_seed_speaks_of_scenarios_alone_and_one_scenario_of_nothing():
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    one = crossed(values, 0.95)
    half = 3.182 * np.std(values, ddof=1) / 2
    assert (one.mean, one.low, one.high, one.n) == pytest.approx((2.5, 2.5 - half, 2.5 + half, 4), rel=1e-3)
    assert not crossed(np.array([[1.0], [2.0]]), 0.95).bounded
    same = crossed(np.ones((3, 4)), 0.95)
    assert (same.low, same.high) == (1.0, 1.0)
