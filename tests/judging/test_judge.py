"""The whole judge on small sources, and the trial that it must pass before it may judge."""

import dataclasses
from functools import cache, partial

import pytest
from judged import sources

from worldcompass.judging.classifier import GATES_ALONE, LINEAR, Asked
from worldcompass.judging.forgeries import FORGERIES, FULL
from worldcompass.judging.judge import CLASSIFIER, DISTANCES, STATISTICS, judge, steps_of
from worldcompass.judging.memo import Memo
from worldcompass.judging.place import place_network
from worldcompass.judging.sources import STRETCHES, Steps
from worldcompass.judging.trial import Caught, changes_of, forged, share_below_zero, try_forgeries
from worldcompass.judging.twin import twin_seed
from worldcompass.judging.verdict import read_judgement, write_judgement
from worldcompass.statistics import Estimate

QUICK = Asked(capacities=(LINEAR,))
COUNT, FRAMES = 12, 26
PLACE_STEPS = 60


def soft(strength):
    return lambda video, generator: FORGERIES["blurred"](video, strength, generator)


@cache
def sharpened():
    """Sources of a model that training sharpened beyond the truth."""
    return sources(soft(0.5), lambda v, g: FORGERIES["sharpened"](v, 3.0, g), COUNT, FRAMES)


@cache
def judged():
    """The judgement of it, the calls for its progress, and how many were announced."""
    chunks = {name: v[:, :, 10:18] for name, v in sharpened().models_KSF3hw.items()}
    calls = []
    full = dataclasses.replace(sharpened(), steps=Steps(10, chunks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldcompass.judging.judge.place_network", partial(place_network, steps=PLACE_STEPS))
        return judge(full, 0, QUICK, lambda: calls.append(1)), len(calls), steps_of(full, QUICK)


def test_training_that_sharpens_beyond_the_truth_is_rejected_with_a_sentence():
    judgement, _, _ = judged()
    assert judgement.outcome == "worse" and judgement.sentence.startswith("The trained model looks worse")
    assert {g.outcome for g in judgement.gates if g.name.startswith((CLASSIFIER, STATISTICS))} == {"worse"}


def test_every_gate_has_a_stretch_and_every_number_its_floor_or_ceiling():
    judgement, _, _ = judged()
    families = (f"{DISTANCES} of pictures", f"{DISTANCES} of motion")
    names = {f"{name}, {stretch}" for name in (CLASSIFIER, STATISTICS, *families) for stretch in STRETCHES}
    assert {gate.name for gate in judgement.gates} == names
    assert {row.part for row in judgement.rows} == {
        "classifier",
        "distances",
        "statistics",
        "paired",
        "place",
    }
    floors = {"engine", "other", "reachable"}
    for row in judgement.rows:
        if "networks" not in row.name and "logit" not in row.name and "kernel" not in row.name:
            assert floors & set(row.values), row


def test_progress_ends_at_its_total():
    _, calls, total = judged()
    assert calls == total


def test_a_quick_judge_has_the_same_gates_and_nothing_that_explains():
    calls = []
    quick = judge(sharpened(), 0, GATES_ALONE, lambda: calls.append(1))
    assert [g.name for g in quick.gates] == [g.name for g in judged()[0].gates]
    assert quick.outcome == "worse" and len(calls) == steps_of(sharpened(), GATES_ALONE)
    assert not any("area" in row.name or row.part in ("place", "paired") for row in quick.rows)


def test_a_judgement_survives_its_file(tmp_path):
    written, _, _ = judged()
    found = read_judgement(write_judgement(tmp_path / "judgement.json", written))
    assert found.sentence == written.sentence and len(found.rows) == len(written.rows)


def test_the_twin_never_uses_the_seed_of_the_judge():
    assert not {twin_seed(seed) for seed in range(100)} & set(range(100))


PICTURES = ("blurred", "sharpened", "grainy", "striped")


@cache
def caught():
    """The gates that reject full forgeries of reachable truth."""
    tried = try_forgeries(
        sources(count=COUNT, frames=FRAMES), 0, (*PICTURES, "frozen"), (1.0,), ("reachable",)
    )
    return {found.forgery: set(found.rejected_by) for found in tried}


@pytest.mark.parametrize("name", PICTURES)
def test_full_forgeries_of_the_truth_rank_below_it_by_every_gate_of_pictures(name):
    assert {"classifier", "pictures", "statistics"} <= caught()[name]


def test_frozen_pictures_are_rejected_by_their_motion():
    assert "motion" in caught()["frozen"]


def test_what_is_remembered_of_an_original_changes_no_number():
    found = sources(base=soft(0.5), trained=soft(1.5), count=8, frames=FRAMES)
    real = (found.engine_SF3hw, found.other_SF3hw, found.reachable_SF3hw)
    memo = Memo((*real, found.models_KSF3hw["base"][0]))
    once, again, alone = (
        changes_of(found, 0, memo=memo),
        changes_of(found, 0, memo=memo),
        changes_of(found, 0),
    )
    assert once == again == alone
    other = found.with_models({**found.models_KSF3hw, "trained": found.models_KSF3hw["base"]})
    assert changes_of(other, 0, memo=memo)["pictures"].mean == 0


def test_stripes_come_from_another_region():
    found = sources(count=8, frames=FRAMES, regions=2)
    striped = forged(found.engine_SF3hw, "striped", 1.0, found.regions, (0,))
    changed = (striped != found.engine_SF3hw).any(2)
    assert changed.any() and striped[changed.unsqueeze(2).expand_as(striped)].numel() > 0
    assert set(FULL) > {"striped"}


def test_the_share_of_resamples_follows_the_interval():
    assert share_below_zero(Estimate(-1, -1.5, -0.5)) > 0.99
    assert share_below_zero(Estimate(0, -1, 1)) == pytest.approx(0.5)
    assert Caught("engine", "blurred", 1.0, {"gate": Estimate(1, 0.5, 1.5)}).share("gate") < 0.01
