"""Means with intervals: their one form, and the arithmetic against tables and hand-computed values."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from worldcompass.statistics import (
    UNKNOWN,
    Estimate,
    bootstrap,
    calibration_error,
    detectable_share,
    kendall,
    mean_of,
    rank_correlation,
    resamples,
    share,
    sign_test,
    win_rate,
)


def test_an_estimate_survives_json_and_what_is_unknown_is_null():
    for value in (Estimate(0.5, 0.25, 0.75, 24), Estimate(1.0, 0.0, 2.0)):
        assert Estimate.from_json(json.loads(json.dumps(value.to_json(), allow_nan=False))) == value
    assert Estimate(0.5, 0.25, 0.75, 24).to_json() == {"mean": 0.5, "ci95": [0.25, 0.75], "n": 24}
    assert UNKNOWN.to_json() == {"mean": None, "ci95": [None, None], "n": None}
    read = Estimate.from_json({"mean": 0.5})
    assert read.known and not read.bounded and not read.rises and not read.falls


@pytest.mark.parametrize(
    "data", [3, [0.1], {"mean": "high"}, {"mean": 1, "ci95": [0]}, {"mean": 1, "n": 2.5}, {"mean": True}]
)
def test_what_is_no_estimate_is_refused(data):
    with pytest.raises(ValueError, match="expected"):
        Estimate.from_json(data)


def test_an_estimate_is_written_for_people():
    value = Estimate(0.4134, 0.32, 0.5, 24)
    assert value.in_percent() == "41.3% [32.0, 50.0]" and value.in_percent(digits=0) == "41% [32, 50]"
    assert UNKNOWN.in_percent() == "–" and UNKNOWN.in_percent(none="nothing") == "nothing"
    assert str(Estimate(0.12, 0.05, 0.19)) == "+0.12 (+0.05 to +0.19)"
    assert Estimate(0.5, 0.25, 1.0, 24).times(100) == Estimate(50.0, 25.0, 100.0, 24)


def test_a_bootstrap_holds_the_middle_95_percent_of_the_resampled_means():
    found = bootstrap(np.arange(1001) / 1000, 0.5, 7)
    assert (found.low, found.high, found.n) == (pytest.approx(0.025), pytest.approx(0.975), 7)
    assert resamples(["a", "b"], count=10).shape == (10, 2)


def test_intervals_count_videos_and_not_clips():
    hits = np.ones(32)
    alone, pairs = (share(hits, [f"{i // size}" for i in range(32)]) for size in (1, 2))
    assert alone.n == pairs.n == 32
    assert alone.low == pytest.approx(0.893, abs=1e-3) and pairs.low == pytest.approx(0.806, abs=1e-3)
    assert alone.high == pairs.high == 1
    half = share(np.array([0.0, 1.0] * 10), [str(i) for i in range(20)])
    assert (half.low, half.high) == (pytest.approx(0.299, abs=1e-3), pytest.approx(0.701, abs=1e-3))


def test_measures_against_hand_computed_values():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 20, 15])) == pytest.approx(0.5)
    assert rank_correlation(np.ones(3), np.arange(3)) == 0


def test_kendalls_tau_counts_pairs_and_allows_for_ties():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
    assert kendall(x, y) == pytest.approx(4 / 6)  # five pairs agree and one does not
    assert kendall(x, np.array([1.0, 1, 2, 2])) == pytest.approx(4 / np.sqrt(6 * 4))
    assert kendall(x, -x) == -1 and kendall(np.ones(4), x) == 0
    assert calibration_error(np.array([0.1, 0.3, 0.9]), np.array([0, 0, 1])) == pytest.approx(0.15)


def test_wilson_interval_of_seven_in_ten():
    rate = win_rate(7, 3)  # R: binom::binom.confint(7, 10, methods = "wilson")
    assert (rate.low, rate.high) == pytest.approx((0.3967732, 0.8922087), abs=2e-5)
    assert (rate.mean, rate.n) == (0.7, 10)
    nobody = win_rate(0, 0)
    assert (nobody.low, nobody.high, nobody.n) == (0.0, 1.0, 0) and not nobody.known
    assert win_rate(5, 0).high == 1.0 and win_rate(0, 5).low == 0.0


def test_sign_test_is_exact_and_symmetric():
    assert sign_test(8, 2) == sign_test(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert sign_test(3, 3) == 1.0 and sign_test(0, 0) == 1.0


def test_the_detectable_share_matches_the_binomial_by_hand():
    assert detectable_share(6) == pytest.approx(0.8 ** (1 / 6))  # all six must be won
    share = detectable_share(10)  # nine of ten must be won: p = 22 / 1024
    assert share**10 + 10 * share**9 * (1 - share) == pytest.approx(0.8)
    assert math.isnan(detectable_share(5))  # even five of five has p = 0.0625
    assert 0.5 < detectable_share(1000) < 0.55


@dataclass(frozen=True)
class Measured:
    loss: float | None
    seconds: dict[str, float]
    name: str = "a"


def test_structures_are_averaged_number_by_number_and_costs_are_added():
    first, second = (
        Measured(1.0, {"score": 2.0, "update": 3.0}),
        Measured(2.0, {"score": 2.0, "update": 5.0}, "b"),
    )
    assert mean_of([first, second], ["seconds"]) == Measured(1.5, {"score": 4.0, "update": 8.0}, "a")
    assert mean_of([first, second]).seconds == {"score": 2.0, "update": 4.0}


def test_a_number_that_some_lack_is_the_mean_of_the_others():
    rows = [Measured(None, {}), Measured(1.0, {}), Measured(2.0, {})]
    assert mean_of(rows).loss == 1.5 and mean_of(rows[:1]).loss is None


def test_costs_that_happen_to_be_equal_are_added_too():
    assert mean_of([{"passes": 3, "step": 7}] * 2, ["passes"]) == {"passes": 6, "step": 7}
