"""Two-sided statistics: what they say of softer, sharper, grainier and greyer pictures."""

import math

import numpy as np
import pytest
import torch
from judged import sources

from worldcompass.judging.bands import BAND, STATISTICS, distances, measure_bands, statistics_of
from worldcompass.judging.forgeries import FORGERIES
from worldcompass.judging.sources import STRETCHES
from worldcompass.statistics import Crossing


def alone(scenarios):
    """The crossing of so many scenarios under one seed."""
    return Crossing.of([str(i) for i in range(scenarios)], count=1)


def forged(name, strength):
    return lambda video, generator: FORGERIES[name](video, strength, generator)


@pytest.mark.parametrize(
    ("name", "strength", "statistic", "sign"),
    [
        ("blurred", 1.5, "gradient energy", -1),
        ("sharpened", 1.5, "gradient energy", 1),
        ("grainy", 12.0, "frequencies 0.35-0.71", 1),
        ("grainy", 12.0, "change of motion", 1),
        ("contrasted", 0.4, "contrast", 1),
    ],
)
def test_a_change_is_named_with_its_direction_and_counts_against_the_model(name, strength, statistic, sign):
    found = measure_bands(sources(trained=forged(name, strength)))
    deviation = found.models["trained"][statistic]
    assert sign * deviation.signed.mean > BAND and not deviation.inside
    assert all(found.change[s][statistic].falls and found.overall[s].falls for s in STRETCHES)


def test_a_model_that_equals_the_truth_lies_inside_every_band_and_shows_no_difference():
    found = measure_bands(sources())
    assert all(d.inside and d.distance.mean == 0 for d in found.models["trained"].values())
    assert all(found.overall[s].mean == 0 and not found.overall[s].rises for s in STRETCHES)


def test_training_that_removes_blur_comes_nearer_and_training_that_oversteps_does_not():
    nearer = measure_bands(sources(base=forged("blurred", 1.5), trained=forged("blurred", 0.6)))
    beyond = measure_bands(sources(base=forged("blurred", 0.6), trained=forged("sharpened", 3.0)))
    assert all(nearer.overall[s].rises and beyond.overall[s].falls for s in STRETCHES)


def test_half_too_soft_and_half_too_sharp_is_far_although_the_mean_is_right():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 0.01, (20, 2, 1))
    split = truth + np.where(np.arange(20) % 2, 0.5, -0.5)[:, None, None]
    assert abs((split - truth).mean()) < 1e-9
    assert distances(split, truth, alone(20))[0, 0, 0] > 0.4


def test_a_seed_that_is_too_soft_and_one_that_is_too_sharp_are_both_far():
    soft, sharp = (sources(trained=forged(name, 2.0)) for name in ("blurred", "sharpened"))
    seeds = torch.cat([soft.models_KSF3hw["trained"], sharp.models_KSF3hw["trained"]])
    both = soft.with_models({"base": soft.models_KSF3hw["base"].repeat(2, 1, 1, 1, 1, 1), "trained": seeds})
    each, found = [measure_bands(one) for one in (soft, sharp)], measure_bands(both)
    whole, name = next(iter(STRETCHES)), "gradient energy"
    apart = [one.models["trained"][name].distance.mean for one in each]
    deviation = found.models["trained"][name]
    assert deviation.distance.mean == pytest.approx(sum(apart) / 2) and min(apart) > 0.1
    assert not deviation.inside and deviation.signed.low < -0.1 and deviation.signed.high > 0.1
    assert found.overall[whole].mean == pytest.approx(sum(one.overall[whole].mean for one in each) / 2)
    assert found.overall[whole].n == 32


def test_scenarios_in_another_order_are_no_distance():
    values = np.random.default_rng(1).normal(size=(12, 3, 2))
    assert distances(values[::-1], values, alone(12))[:, 0] == pytest.approx(np.zeros((1, 2)))


def test_twice_the_amplitude_is_twice_the_contrast_and_gradient():
    videos = sources().engine_SF3hw[:2]
    middle = videos.float().mean((-2, -1), keepdim=True)
    doubled = (middle + 2 * (videos.float() - middle)).round().clamp(0, 255).byte()
    change = (statistics_of(doubled) - statistics_of(videos)).mean((0, 1))
    for name in ("gradient energy", "contrast"):
        assert change[STATISTICS.index(name)] == pytest.approx(math.log(2), abs=0.12)
