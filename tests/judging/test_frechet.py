"""Frechet and kernel distances: exact on known Gaussians, and farther for every change of the pictures."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from judged import sources
from torch.nn.functional import conv2d, max_pool2d, relu

from worldcompass.judging.forgeries import FORGERIES
from worldcompass.judging.frechet import frechet, kernel_distance, log_ratio, measure_distances, moments_of
from worldcompass.judging.memo import Memo
from worldcompass.judging.sources import STRETCHES, windows
from worldcompass.judging.spaces import (
    activations,
    haar,
    mean_and_deviation,
    random_filters,
    spaces,
    wavelet_packets,
)
from worldcompass.seeding import generator_for

WHOLE = np.arange(200)[None]


def gaussian(mean, scale, seed=0):
    values = torch.randn(200, 10, 2, generator=generator_for(seed, "gaussian"), dtype=torch.float64)
    return torch.tensor(mean) + torch.tensor(scale) * values


@cache
def truth():
    """Sources whose models equal the truth, and what is remembered of them."""
    found = sources(count=12, frames=26)
    return found, Memo((found.engine_SF3hw, found.other_SF3hw, found.models_KSF3hw["base"]))


def changed(change):
    videos = truth()[0].engine_SF3hw
    return torch.stack([change(video, generator_for(0, i)) for i, video in enumerate(videos)])[None]


def few(trained=None, base=None):
    found, memo = truth()
    own = {name: changed(change) for name, change in (("base", base), ("trained", trained)) if change}
    pair = found.with_models({**found.models_KSF3hw, **own})
    return measure_distances(pair, windows(found.frames), spaces(0, networks=1), memo=memo)


def test_the_frechet_distance_of_gaussians_is_the_known_one():
    a, b = gaussian([0.0, 0.0], [1.0, 1.0]), gaussian([3.0, 0.0], [1.0, 2.0], seed=1)
    found = frechet(moments_of(a), moments_of(b), WHOLE)[0]
    assert found == pytest.approx(9 + 1, rel=0.1)  # |m|^2 + (2 - 1)^2


def test_equal_sets_have_no_distance_and_a_finite_logarithm():
    a = moments_of(gaussian([0.0, 0.0], [1.0, 1.0]))
    assert frechet(a, a, WHOLE)[0] == pytest.approx(0, abs=1e-6)
    assert math.isfinite(log_ratio(np.zeros(1), np.ones(1))[0])


def test_the_kernel_distance_is_near_zero_for_equal_distributions_and_larger_for_others():
    a, b, far = (
        gaussian([0.0, 0.0], [1.0, 1.0]),
        gaussian([0.0, 0.0], [1.0, 1.0], 1),
        gaussian([2.0, 0.0], [1.0, 1.0]),
    )
    near = kernel_distance(a, b, WHOLE)[0]
    assert abs(near) < 0.1 and kernel_distance(a, far, WHOLE)[0] > 1


def test_wavelet_packets_keep_all_energy():
    picture = torch.rand(1, 3, 16, 24, generator=generator_for(0))
    assert sum(float(p.square().sum()) for p in wavelet_packets(picture)) == pytest.approx(
        float(picture.square().sum()), rel=1e-5
    )
    assert [tuple(band.shape) for band in haar(picture)] == [(1, 3, 8, 12)] * 4


@pytest.mark.parametrize(
    ("name", "strength"), [("blurred", 1.5), ("sharpened", 1.5), ("grainy", 8.0), ("contrasted", 0.3)]
)
def test_every_change_of_the_pictures_is_farther_in_every_space_and_stretch(name, strength):
    found = few(lambda video, generator: FORGERIES[name](video, strength, generator))
    for stretch in STRETCHES:
        assert found.change[stretch]["pictures"].rises
        assert all(distance.change.mean > 0 for distance in found.spaces[stretch].values())


def test_a_stronger_change_is_farther():
    def grain(strength):
        return lambda video, generator: FORGERIES["grainy"](video, strength, generator)

    found = few(trained=grain(3.0), base=grain(12.0))
    assert all(
        found.change[stretch][family].falls for stretch in STRETCHES for family in ("pictures", "motion")
    )


def test_a_collapse_at_the_end_shows_there_more_than_in_the_whole_video():
    def collapsing(video, generator):
        return torch.cat([video[:19], video[19:].roll(1, 1)])

    found = few(trained=collapsing)
    whole, end = (found.change[stretch]["pictures"].mean for stretch in STRETCHES)
    assert 0 < whole < end


def test_a_model_that_equals_the_base_shows_no_difference():
    found = few()
    for stretch in STRETCHES:
        change = found.change[stretch]["pictures"]
        assert (change.mean, change.low, change.high) == (0, 0, 0)


@pytest.mark.parametrize("level", [0.2, 0.8])
def test_every_random_network_sees_flat_pictures_become_darker_or_brighter(level):
    def seen(value, seed):
        return activations(torch.full((1, 3, 16, 16), value), random_filters(seed, 0))[0].mean((-2, -1))

    for seed in range(30):  # filters of one sign would be blind on one side of grey
        assert (seen(level, seed) - seen(level + 0.1, seed)).abs().max() > 0.02, seed


def test_faster_pooling_and_deviations_are_those_of_pytorch():
    picture, filters = torch.rand(2, 3, 17, 22, generator=generator_for(0)), random_filters(0, 0)
    first, second, _ = activations(picture, filters)
    assert torch.equal(second, relu(conv2d(max_pool2d(first, 2), filters[1], padding=1)))
    expected = [first.mean((-2, -1)), first.std((-2, -1))]
    torch.testing.assert_close(mean_and_deviation(first, (-2, -1)), expected, rtol=1e-5, atol=1e-6)


def test_seeds_that_drift_in_opposite_directions_do_not_cancel():
    def drifting(seeds):
        found = sources(count=12, frames=26, seeds=seeds)
        truth = found.engine_SF3hw
        moved = [(truth.int() + (40 if k % 2 else -40)).clamp(0, 255).to(torch.uint8) for k in range(seeds)]
        trained = torch.stack(moved)
        pair = found.with_models({"base": found.models_KSF3hw["base"], "trained": trained})
        return measure_distances(pair, windows(26), spaces(0, networks=1)[1:2])

    one, two = (drifting(seeds).spaces["the whole video"]["pictures"].change for seeds in (1, 2))
    assert two.mean > 0.8 * one.mean > 1 and (one.n, two.n) == (12, 24)
