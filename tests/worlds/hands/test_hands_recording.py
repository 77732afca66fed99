"""Scenarios are carried out exactly; recordings resume, repeat themselves and refuse what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.hands import collect, recording
from worldcompass.worlds.hands.facts import (
    CONTROLS,
    LIMIT_HIGH,
    LIMIT_LOW,
    THINGS,
    action_of,
    kind_of_action,
    labels_of,
)
from worldcompass.worlds.hands.scenarios import (
    KINDS,
    Plan,
    draw,
    draw_all,
    read_plans,
    replay,
    replay_all,
    room,
    write_plans,
)
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.small import data

LATENTS = 16


@pytest.fixture(scope="module")
def plans(blind) -> list[Plan]:
    return draw_all(blind, "heldout", per_kind=4, latents=LATENTS, seed=1)


def test_scenarios_command_their_kind_and_the_engine_obeys(blind, plans):
    assert [plan.kind for plan in plans] == [kind for kind in KINDS for _ in range(4)]
    assert len({plan.number for plan in plans}) == len({plan.id for plan in plans}) == len(plans)
    for plan, steps in zip(plans, replay_all(blind, plans, LATENTS), strict=True):
        assert {kind_of_action(action) for action in plan.labels[1:]} == {plan.kind}
        assert tuple(labels_of(steps.grip_F4)) == plan.labels
        assert len(steps.grip_F4) == 4 * LATENTS - 3
    assert draw_all(blind, "heldout", per_kind=4, latents=LATENTS, seed=1) == plans
    assert draw_all(blind, "heldout", per_kind=1, latents=LATENTS, seed=2)[0].labels != plans[0].labels


def test_some_scenarios_begin_with_something_in_hand(blind):
    drawn = draw_all(blind, "train", per_kind=8, latents=6, seed=0)
    held = [replay(blind, plan, 1).held_FT[0].any() for plan in drawn]
    assert 1 <= sum(held) < len(drawn)
    assert all(plan.before for plan, has in zip(drawn, held, strict=True) if has)


def test_an_engine_that_moves_otherwise_is_refused(blind, plans):
    other = Plan("wrong", "basic", "heldout", 0, (), (0, *[action_of((1, 0, 0, 0))] * 12))
    with pytest.raises(UserError, match="moved otherwise than planned in scenario wrong"):
        replay_all(blind, [other], 13)


def test_room_counts_whole_latents_up_to_the_limit():
    grip = np.array([0.10, 0.0, 0.008, 0.24])
    assert room(grip, action_of((1, 0, 0, 0))) == 1
    assert room(grip, action_of((-1, 0, 0, 0))) == 5
    assert room(grip, action_of((0, 0, -1, 0))) == room(grip, action_of((-1, 0, 0, 1))) == 0
    assert room(LIMIT_LOW, 80) == room(LIMIT_HIGH, action_of((1, 1, 1, 1))) == 0


def test_plans_are_read_as_written_and_damaged_ones_refused(plans, tmp_path):
    path = tmp_path / "plans.json"
    write_plans(path, plans)
    assert read_plans(path) == plans
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="holds no Hands scenarios"):
        read_plans(path)
    write_plans(path, [Plan("a", "basic", "heldout", 0, (), (0, 81))])
    with pytest.raises(UserError, match=r"scenario a of .* outside 0 to 80"):
        read_plans(path)
    write_plans(path, [Plan("a", "basic", "heldout", 0, (), (0, 80))])
    with pytest.raises(UserError, match="actions that are not basic"):
        read_plans(path)


def test_an_unknown_kind_is_one_sentence(blind):
    with pytest.raises(UserError, match="no kind 'hard' of Hands scenarios: choose one of combined, basic"):
        draw(blind, np.random.default_rng(0), "a", "hard", "heldout", 0, 4)


@pytest.fixture(scope="module")
def recorded(engine, tmp_path_factory) -> Path:
    """Two shards of two episodes."""
    root = tmp_path_factory.mktemp("hands") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "EPISODES_PER_SHARD", 2)
        collect.collect(root, {"train": 3}, workers=1)
    return root


def test_an_episode_is_what_was_commanded_and_what_was_true(recorded):
    shards = data.load(recorded, "train", recording.FORMAT)
    assert [len(shard) for shard in shards] == [2, 2]
    assert [int(episode.number) for shard in shards for episode in shard] == [0, 1, 2, 3]
    for episode in (episode for shard in shards for episode in shard):
        assert episode.frames_Fhw3.shape == (81, 64, 64, 3)
        assert episode.things_FT7.shape == (81, len(THINGS), 7) and episode.touch_FT5.shape == (81, 4, 5)
        assert episode.actions_M.shape == (21,) and episode.actions_M[0] == 0
        wanted = scene("train", int(episode.number))
        assert episode.present_T.tolist() == [wanted.placed(kind) is not None for kind in THINGS]
        kind = list(collect.KINDS)[int(episode.kind)]
        if kind != "smooth":
            assert (episode.controls_M4 == CONTROLS[episode.actions_M]).all()
        assert np.abs(episode.controls_M4).max() <= 1


def test_a_stopped_recording_is_resumed_and_gives_the_same_bytes(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "EPISODES_PER_SHARD", 2)
    root = tmp_path / "data"
    shutil.copytree(recorded, root)
    lost = recording.shard_folder(root, "train", 1)
    kept = recording.shard_folder(root, "train", 0) / "frames.npy"
    before = {path.name: path.read_bytes() for path in lost.iterdir()}
    stamp = kept.stat().st_mtime_ns
    shutil.rmtree(lost)
    collect.collect(root, {"train": 4}, workers=1)
    assert {path.name: path.read_bytes() for path in lost.iterdir()} == before
    assert kept.stat().st_mtime_ns == stamp


def test_every_kind_of_episode_can_be_recorded(engine, monkeypatch):
    for kind in collect.KINDS:
        monkeypatch.setattr(collect, "KINDS", {**dict.fromkeys(collect.KINDS, 0.0), kind: 1.0})
        episode = collect.record_episode(engine, "train", 7)
        assert list(collect.KINDS)[int(episode.kind)] == kind
        assert (labels_of(episode.grip_F4) != 0).any()


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        collect.collect(tmp_path / "new", {"test": 1}, workers=1)
    (tmp_path / data.CARD).write_text('{"version": 0}')
    with pytest.raises(UserError, match="holds a dataset made with"):
        collect.collect(tmp_path, {"train": 1}, workers=1)
