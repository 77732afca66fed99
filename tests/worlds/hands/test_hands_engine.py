"""The engine does what is commanded, tells the truth, repeats itself bit by bit and never breaks."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.hands.engine import ABSENT_POSE, Engine, Steps
from worldcompass.worlds.hands.facts import (
    CONTROLS,
    LIMIT_HIGH,
    LIMIT_LOW,
    NOMINAL,
    NUM_ACTIONS,
    TABLE_HALF,
    THINGS,
    action_of,
    action_words,
    kind_of_action,
    labels_of,
)
from worldcompass.worlds.hands.scripts import Look, Pick, Wander, play
from worldcompass.worlds.hands.splits import Placed, scene

MILLIMETRE = 0.001
EMPTY = replace(scene("train", 0), things=(), gripper=(0.0, 0.0, 0.110, 0.120))
CUP, BALL, BLOCK = (THINGS.index(kind) for kind in ("cup", "ball", "block"))


def digest(steps: Steps) -> str:
    found = hashlib.sha256()
    for field in fields(steps):
        array = getattr(steps, field.name)
        found.update(b"" if array is None else array.tobytes())
    return found.hexdigest()


def episode(engine: Engine, number: int = 3, latents: int = 14) -> Steps:
    """A grasp of the cup, so that contacts are part of it."""
    start = engine.reset(scene("heldout", number))
    return Steps.join([start, *play(engine, Look.at_end(start), Pick("cup"), latents)[1]])


def test_every_action_moves_by_its_nominal_amount_within_its_own_latent(blind):
    for action in range(NUM_ACTIONS):
        start = blind.reset(EMPTY)
        moved, idle = blind.act(action), blind.act(0)
        expected = CONTROLS[action] * NOMINAL
        for after in (moved, idle):
            np.testing.assert_allclose(after.grip_F4[-1] - start.grip_F4[-1], expected, atol=MILLIMETRE)
        assert labels_of(np.concatenate([start.grip_F4, moved.grip_F4])).tolist() == [0, action]


def test_the_frames_of_a_motion_are_equal_steps(blind):
    blind.reset(EMPTY)
    x = blind.act(action_of((1, 0, 0, 0))).grip_F4[:, 0]
    np.testing.assert_allclose(x, NOMINAL[0] * np.arange(1, 5) / 4, atol=0.1 * MILLIMETRE)


def test_continuous_controls_are_speeds(blind):
    start = blind.reset(EMPTY).grip_F4[-1]
    controls = np.array([0.5, -0.25, 0.1, 0.3])
    end = blind.act(controls).grip_F4[-1]
    np.testing.assert_allclose(end - start, controls * NOMINAL, atol=MILLIMETRE)
    assert (blind.act(5 * CONTROLS[80]).grip_F4[-1] - end >= -NOMINAL - MILLIMETRE).all()  # clipped to 1


@pytest.mark.parametrize(("sign", "limit"), [(1, LIMIT_HIGH), (-1, LIMIT_LOW)])
def test_the_gripper_stops_at_its_limits(blind, sign, limit):
    blind.reset(EMPTY)
    for _ in range(8):
        end = blind.act(action_of((sign,) * 4)).grip_F4[-1]
    np.testing.assert_allclose(end, limit, atol=0.5 * MILLIMETRE)


def test_a_blocked_gripper_comes_free_at_once(blind):
    """Pressing on a block neither sinks into it nor winds up."""
    block = Placed("block", "red", 0.0, 0.0, 0.0)
    blind.reset(replace(EMPTY, things=(block,), gripper=(0.0, 0.0, 0.200, 0.0)))
    for _ in range(6):
        pressed = blind.act(action_of((0, 0, -1, 0)))
    assert 0.090 < pressed.grip_F4[-1, 2] < 0.100
    assert pressed.touch_FT5[-1, BLOCK, 1]
    lifted = blind.act(action_of((0, 0, 1, 0)))
    assert lifted.grip_F4[-1, 2] - pressed.grip_F4[-1, 2] > 0.9 * NOMINAL[2]


def test_what_is_grasped_is_held_and_comes_along(blind):
    start = blind.reset(scene("heldout", 3))
    seen = Steps.join([start, *play(blind, Look.at_end(start), Pick("cup"), 30)[1]])
    assert not seen.held_FT[0].any()
    assert seen.held_FT[-1].tolist() == [kind == "cup" for kind in THINGS]
    assert seen.touch_FT5[-1, CUP, :3].tolist() == [False, True, True]
    rise = seen.things_FT7[-1, CUP, 2] - seen.grip_F4[-1, 2]
    blind.act(action_of((0, 0, -1, 0)))
    moved = blind.act(action_of((0, -1, 0, 0)))
    assert moved.things_FT7[-1, CUP, 2] - moved.grip_F4[-1, 2] == pytest.approx(rise, abs=3 * MILLIMETRE)
    for _ in range(3):
        dropped = blind.act(action_of((0, 0, 1, 1)))
    assert not dropped.held_FT[-1].any()
    assert dropped.touch_FT5[-1, CUP, 0]


def test_absent_things_touch_nothing_and_have_the_absent_pose(blind):
    only_ball = replace(EMPTY, things=(Placed("ball", "red", 0.1, 0.0, 0.0),))
    blind.reset(only_ball)
    steps = blind.act(action_of((-1, 0, 1, 0)))
    assert blind.present.tolist() == [kind == "ball" for kind in THINGS]
    assert (np.delete(steps.things_FT7, BALL, axis=1) == ABSENT_POSE).all()
    assert not np.delete(steps.touch_FT5, BALL, axis=1).any()
    assert steps.touch_FT5[-1, BALL].tolist() == [True, False, False, False, False]


def test_things_that_lie_on_each_other_touch_each_other(blind):
    stacked = (Placed("cup", "red", 0.1, 0.1, 0.0), Placed("ball", "blue", 0.1, 0.1, 0.0))
    blind.reset(replace(EMPTY, things=stacked))
    for _ in range(5):
        steps = blind.act(0)
    assert steps.touch_FT5[-1, [CUP, BALL], -1].all()


def test_the_same_scene_and_actions_give_the_same_bits(engine):
    used = digest(episode(engine))
    episode(engine, number=4)
    assert digest(episode(engine)) == used
    with Engine() as fresh:
        assert digest(episode(fresh)) == used
    code = (
        "from tests_hands import digest, episode; from worldcompass.worlds.hands.engine import Engine\n"
        "with Engine() as engine: print(digest(episode(engine)))"
    ).replace("tests_hands", "test_hands_engine")
    path = [str(folder) for folder in sys.path if folder]
    other = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert other.stdout.strip() == used


def test_what_follows_a_restored_moment_is_the_same(engine, blind):
    before = episode(engine, latents=11)
    moment = engine.save()
    follows = [engine.act(action) for action in (4, 3, 9 * 5 + 1)]
    again = engine.restore(moment)
    assert (again.frames_Fhw3[0] == before.frames_Fhw3[-1]).all()
    assert [digest(engine.act(action)) for action in (4, 3, 46)] == [digest(steps) for steps in follows]
    blind.restore(moment)
    truths = [blind.act(action).things_FT7 for action in (4, 3, 46)]
    assert all((truth == steps.things_FT7).all() for truth, steps in zip(truths, follows, strict=True))


def test_two_engines_draw_in_turn(engine):
    expected = digest(episode(engine))
    with Engine() as other:
        other.reset(scene("heldout", 9))
        start = engine.reset(scene("heldout", 3))
        seen, look, pick = [start], Look.at_end(start), Pick("cup")
        for _ in range(14):
            action = pick(look)
            if action is None:
                break
            seen.append(engine.act(action))
            other.act(3)
            look = Look.at_end(seen[-1])
    assert digest(Steps.join(seen)) == expected


def test_random_behaviour_breaks_nothing(blind):
    room = np.array(TABLE_HALF) + 0.02
    for number in range(12):
        rng = np.random.default_rng(number)
        look, wander = Look.at_end(blind.reset(scene("unseen_sets", number))), Wander(rng, low=True)
        for _ in range(40):
            steps = blind.act(rng.uniform(-1, 1, 4) if number % 3 == 0 else wander(look))
            look = Look.at_end(steps)
            things = steps.things_FT7[:, blind.present]
            assert np.isfinite(things).all() and np.isfinite(steps.grip_F4).all()
            outside = np.abs(things[..., :2]) - 0.37 * np.maximum(things[..., 2:3], 0)
            assert (outside < room).all()
            assert (things[..., 2] > -0.02).all() and (things[..., 2] < 0.5).all()
    assert not any(warning.number for warning in blind._data.warning)


@pytest.mark.parametrize(
    "action", [NUM_ACTIONS, -1, "up", (1, 0, 0), (0, 0, 0, float("nan")), None, [[0, 0, 0, 0]]]
)
def test_wrong_actions_are_one_sentence(blind, action):
    blind.reset(EMPTY)
    with pytest.raises(UserError, match=r"(?s)\A[^\n]*0 to 80[^\n]*\Z"):
        blind.act(action)


def test_an_engine_without_a_scene_says_so():
    with Engine(draw=False) as fresh:
        with pytest.raises(UserError, match="call reset first"):
            fresh.act(0)
        with pytest.raises(UserError, match="call reset first"):
            fresh.save()


def test_words_and_kinds_of_actions():
    assert action_words(0) == "none"
    assert action_words(action_of((1, 0, -1, 0))) == "right+down"
    assert action_words(action_of((-1, 1, 1, -1))) == "left+reach+up+close"
    kinds = [kind_of_action(action) for action in range(NUM_ACTIONS)]
    assert [kinds.count(kind) for kind in ("none", "basic", "combined")] == [1, 8, 72]
    assert [action_of(CONTROLS[action]) for action in range(NUM_ACTIONS)] == list(range(NUM_ACTIONS))


def test_an_engine_that_is_dropped_unclosed_leaves_the_pictures_of_others_alone(engine):
    """Renderers number what they own from 1: one that is freed in another's context would delete that one's."""
    other = Engine()
    drawn = other.reset(scene("heldout", 0)).frames_Fhw3
    dropped = Engine()
    dropped.reset(scene("heldout", 1))
    other.restore(other.save())  # the other's context is the current one now
    del dropped
    gc.collect()
    again = other.reset(scene("heldout", 0)).frames_Fhw3
    other.close()
    assert np.array_equal(drawn, again)
