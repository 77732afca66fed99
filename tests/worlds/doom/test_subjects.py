"""What the embedded world gives to a blind study."""

import dataclasses

import pytest
from other_weights import run_with_other_weights

from worldcompass.errors import UserError
from worldcompass.worlds.doom.subjects import doom_subjects
from worldcompass.worlds.doom.world import WEIGHTS


def test_a_run_is_compared_with_the_base_and_two_runs_with_each_other(tmp_path, one_thread):
    one, two = (
        run_with_other_weights(tmp_path / name, scale, WEIGHTS)
        for name, scale in (("one", 0.9), ("two", 1.1))
    )
    alone, both = doom_subjects(one, None, 125, "cpu"), doom_subjects(one, two, 125, "cpu")
    assert (alone.subject, alone.rival) == ("trained", "base") and set(alone.weights) == {"base", "trained"}
    assert (both.subject, both.rival) == ("trained", "other")
    assert len(set(both.weights.values())) == 3 and both.weights["trained"] == alone.weights["trained"]
    assert both.titles == {"base": "the shipped base", "trained": str(one), "other": str(two)}
    with pytest.raises(UserError, match="hold the same weights"):
        doom_subjects(one, one, 125, "cpu")


def test_scenarios_have_the_engines_frames_and_models_imagine_them_apart(tmp_path, one_thread):
    subjects = doom_subjects(run_with_other_weights(tmp_path / "run", 0.5, WEIGHTS), None, 125, "cpu")
    (scenario,) = subjects.prepare(subjects.scenario_ids[:1])
    assert scenario.truth.frames_F3hw.shape == (125, 3, 48, 64)
    assert subjects.fingerprint([scenario]) == subjects.fingerprint(subjects.prepare([scenario.id]))
    short = dataclasses.replace(scenario, actions=scenario.actions.latents(0, 4), truth=None)
    base, trained = (subjects.imagine(name, [short], 0) for name in ("base", "trained"))
    assert base.shape == (1, 13, 3, 48, 64) and not base.equal(trained)
    assert subjects.imagine("base", [short], 0).equal(base)
