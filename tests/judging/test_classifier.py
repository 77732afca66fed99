"""The classifier two-sample test: it tells planted changes, tells no two equal sets apart, and refuses leaks."""

from functools import cache

import pytest
import torch
from judged import sources

from worldcompass.errors import UnfitInputs
from worldcompass.judging.classifier import FOLDS, LINEAR, Asked, classify, networks_of
from worldcompass.judging.folds import check_folds, folds_of
from worldcompass.judging.forgeries import FORGERIES
from worldcompass.judging.memo import Memo
from worldcompass.judging.sources import STRETCHES, windows
from worldcompass.seeding import generator_for

WHOLE, END = STRETCHES
QUICK = Asked(capacities=(LINEAR,))


def forged(name, strength):
    return lambda video, generator: FORGERIES[name](video, strength, generator)


@cache
def truth():
    """Sources whose models equal the truth, and what is remembered of them."""
    found = sources(frames=26)
    return found, Memo((found.engine_SF3hw, found.other_SF3hw, found.models_KSF3hw["base"]))


def classified(base=None, trained=None, asked=QUICK, folds=None, **more):
    found, memo = truth()
    own = {name: changed(change) for name, change in (("base", base), ("trained", trained)) if change}
    pair = found.with_models({**found.models_KSF3hw, **own})
    return classify(pair, windows(found.frames), 0, asked, folds, memo=memo, **more)


def changed(change):
    videos = truth()[0].engine_SF3hw
    return torch.stack([change(video, generator_for(0, i)) for i, video in enumerate(videos)])[None]


@pytest.mark.parametrize(("name", "strength"), [("blurred", 1.5), ("sharpened", 2.0), ("grainy", 8.0)])
def test_a_changed_picture_looks_less_real_than_the_truth(name, strength):
    found, overall = classified(trained=forged(name, strength))
    assert overall[END].falls and overall[WHOLE].falls
    assert found[LINEAR].auc["trained"].low > 0.6


@pytest.mark.parametrize("capacity", ["patch", "clip"])
def test_networks_that_learn_find_grain(capacity):
    asked = Asked(capacities=(capacity,), explain=False, steps=0.1)
    _, overall = classified(trained=forged("grainy", 16.0), asked=asked)
    assert overall[END].falls and overall[WHOLE].falls


@cache
def of_equal_sets():
    return classified()


def test_equal_sets_cannot_be_told_apart():
    found, overall = of_equal_sets()
    assert overall[WHOLE].mean == 0
    for test in ("base", "trained"):
        assert found[LINEAR].auc[test].low <= 0.5 <= found[LINEAR].auc[test].high


def test_other_episodes_of_the_engine_are_the_floor():
    floor = of_equal_sets()[0][LINEAR].auc["other"]
    assert floor.low <= 0.5 <= floor.high


def test_a_fault_that_moves_into_a_blind_spot_shows_in_the_transfer_matrix():
    found, _ = classified(base=forged("blurred", 1.5), trained=forged("sharpened", 2.0))
    transfer = found[LINEAR].transfer
    assert transfer["base"]["trained"] < 0.5 < transfer["trained"]["trained"]


def test_two_seeds_of_a_model_are_resampled_together_with_their_scenario():
    asked = Asked(capacities=(LINEAR,), explain=False)
    found = sources(trained=forged("grainy", 8.0), frames=26, seeds=2)
    two = classify(found, windows(found.frames), 0, asked)[1][WHOLE]
    assert two.n == 32 and two.falls


def test_folds_keep_groups_together_and_are_of_like_size():
    groups = [f"start {i // 3}" for i in range(36)]
    folds = folds_of(groups, FOLDS, 0)
    check_folds(folds, groups)
    assert {folds.count(fold) for fold in range(FOLDS)} == {9}


def test_folds_that_leak_are_refused():
    leaking = [i % FOLDS for i in range(16)]  # both scenarios of a start in different folds
    with pytest.raises(UnfitInputs, match="folds leak: scenarios of start 0"):
        classified(folds=leaking)


def test_too_few_starts_are_refused_in_one_sentence():
    with pytest.raises(UnfitInputs, match="2 different places"):
        folds_of(["here", "here", "there"], FOLDS, 0)


def test_the_number_of_networks_is_the_number_of_calls():
    calls, asked = [], Asked(capacities=(LINEAR,), explain=False)
    classified(asked=asked, on_network=lambda: calls.append(1))
    assert len(calls) == networks_of(asked)
