"""The package's scenarios travel with the engine's own continuation: whole, lossless, without engine or GL."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from worldcompass.errors import UserError
from worldcompass.worlds.hands import footage
from worldcompass.worlds.hands.facts import labels_of
from worldcompass.worlds.hands.footage import read_set, scene_of, shipped, shipped_scenarios, write_set
from worldcompass.worlds.hands.scenarios import ERRAND, Plan, replay
from worldcompass.worlds.hands.tasks import parse
from worldcompass.worlds.hands.world import SPEC


def test_all_scenarios_are_there_without_the_engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    footage.shipped.cache_clear()
    for name, latents, count in (
        ("evaluation", 32, 32),
        ("training", 24, 36),
        ("errands", 24, 16),
        ("probes", 16, 4),
    ):
        found = shipped_scenarios(name, latents)
        assert len({s.id for s in found}) == count
        for scenario in found:
            assert scenario.truth is not None and scenario.image_3hw is not None
            assert scenario.truth.frames_F3hw.shape == (SPEC.num_frames(0, latents), 3, 64, 64)
            assert scenario.truth.frames_F3hw[0].equal(scenario.image_3hw)
            SPEC.actions.check(scenario.actions)


def test_the_evaluation_has_both_kinds_on_heldout_and_unseen_scenes_and_training_shares_none():
    ids = [s.id for s in shipped_scenarios("evaluation", 4)]
    assert (
        sum(i.startswith("heldout/combined") for i in ids)
        == sum(i.startswith("heldout/basic") for i in ids)
        == 12
    )
    assert {i.split("/")[0] for i in ids} == {"heldout", "unseen_looks", "unseen_sets"}
    scenes = [
        {scene_of(plan.id).name for plan, _ in shipped(name)} for name in ("evaluation", "training", "probes")
    ]
    assert not scenes[0] & scenes[1] and not (scenes[0] | scenes[1]) & scenes[2]


def test_commands_of_a_scenario_are_those_that_its_kind_allows():
    for scenario in shipped_scenarios("evaluation", 32):
        kinds = {SPEC.actions.kind(int(c)) for c in SPEC.actions.composites(scenario.actions)[1:]}
        assert kinds <= {scenario.kind}


def test_tasks_carry_an_instruction_and_fingers_may_stop_at_what_they_hold():
    stopped = 0
    for plan, scenario in shipped("errands"):
        assert plan.kind == ERRAND and str(parse(plan.instruction)) == plan.instruction
        assert scenario.instruction == plan.instruction and scenario.truth is not None
        did, told = (SPEC.actions.composites(a) for a in (scenario.truth.actions, scenario.actions))
        stopped += not torch.equal(did, told)
        assert stopped or not plan.done
    assert stopped


def test_the_engine_still_moves_as_it_did_when_the_scenarios_were_made(blind):
    for name in ("probes", "errands"):
        plan, _ = shipped(name)[0]
        steps = replay(blind, plan, len(plan.labels))
        assert tuple(labels_of(steps.grip_F4)) == (plan.done or plan.labels)


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (9, 64, 64, 3), np.uint8) for _ in range(2)]
    plans = [Plan(f"heldout/basic/{i}", "basic", "heldout", i, (), (0, 1, 1)) for i in range(2)]
    write_set(tmp_path, "probes", plans, frames)
    return tmp_path, plans, frames


def test_what_is_stored_comes_back_without_loss(stored):
    folder, plans, frames = stored
    found = read_set(folder, "probes")
    assert [plan for plan, _ in found] == plans
    assert all((a == b).all() for a, (_, b) in zip(frames, found, strict=True))


def test_damaged_frames_are_one_sentence(stored):
    folder, *_ = stored
    (folder / "probes.xz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="holds no frames of Hands scenarios"):
        read_set(folder, "probes")


def test_longer_scenarios_than_there_are_and_unknown_ones_are_refused():
    with pytest.raises(UserError, match="has 16 latents, 17 are asked for"):
        shipped_scenarios("probes", 17)
    with pytest.raises(UserError, match="none of the package's"):
        scene_of("my/own/1")
