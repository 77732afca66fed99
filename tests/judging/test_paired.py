"""Likeness to a known truth: sharpening and contrast earn nothing, a small shift costs nothing."""

import dataclasses

import pytest
import torch
from judged import sources

from worldcompass.judging.forgeries import FORGERIES
from worldcompass.judging.paired import aligned, measure_paired
from worldcompass.judging.place import PlaceNetwork
from worldcompass.judging.sources import Steps
from worldcompass.media.pixels import gain_limited_vif
from worldcompass.seeding import generator_for


def pictures():
    return sources(count=8, frames=26).engine_SF3hw[0, :3]


def forge(name, strength):
    return FORGERIES[name](pictures(), strength, generator_for(0))


def test_the_truth_itself_keeps_all_information():
    assert gain_limited_vif(pictures(), pictures()) == pytest.approx(torch.ones(3), abs=1e-4)


CHANGES = [("sharpened", 2.0), ("contrasted", 0.4), ("grainy", 8.0), ("blurred", 1.5)]


@pytest.mark.parametrize(("name", "strength"), CHANGES)
def test_no_change_of_the_truth_earns_more_than_the_truth(name, strength):
    assert (gain_limited_vif(forge(name, strength), pictures()) <= 1.0001).all()


@pytest.mark.parametrize(("name", "strength"), [("grainy", 8.0), ("blurred", 1.5)])
def test_grain_and_blur_lose_information(name, strength):
    assert (gain_limited_vif(forge(name, strength), pictures()) < 0.9).all()


def test_a_shift_of_two_pixels_is_undone_and_no_shift_stays():
    moved, truth = aligned(pictures().roll((2, -1), (-2, -1)), pictures())
    assert moved.equal(truth)
    still, truth = aligned(pictures(), pictures())
    assert still.equal(truth)


def test_a_model_closer_to_the_truth_scores_higher_on_free_chunks_and_after_true_pasts():
    def soft(strength):
        return lambda video, generator: FORGERIES["blurred"](video, strength, generator)

    found = sources(base=soft(2.0), trained=soft(0.5), count=8, frames=26)
    chunks = {name: v[:, :, 10:18] for name, v in found.models_KSF3hw.items()}
    found = dataclasses.replace(found, steps=Steps(10, chunks))
    likeness = measure_paired(found, PlaceNetwork(2))
    assert set(likeness) == {"free", "after the truth"}
    for part in likeness.values():
        assert part.information_change.rises and part.distance_change.falls
        assert part.information["engine"].mean == pytest.approx(1, abs=1e-3)
