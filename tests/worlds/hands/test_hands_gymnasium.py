"""The task environments keep Gymnasium's contract, and a policy runs in engine and world without change."""

from __future__ import annotations

import shutil

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from worldcompass.errors import UserError
from worldcompass.worlds.hands.facts import ABSENT_POSE, CONTROLS
from worldcompass.worlds.hands.gymnasium import HandsEnv
from worldcompass.worlds.hands.scripts import Look, Pick, play
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import NUMBERS
from worldcompass.worlds.hands.world import SPEC, WEIGHTS

NAMES = ("worldcompass/Hands-v0", "worldcompass/HandsEngine-v0")


def make(name: str, **options) -> HandsEnv:
    if name == NAMES[0]:
        options.setdefault("num_steps", 1)
    env = gymnasium.make(f"worldcompass:{name}", **options).unwrapped
    assert isinstance(env, HandsEnv)
    return env


@pytest.mark.parametrize("name", NAMES)
def test_gymnasiums_own_checker_is_content(name, engine, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # the checker tries every way of rendering
    for observes, shape in (("step", (4, 64, 64, 3)), ("last", (64, 64, 3))):
        env = make(name, render_mode="rgb_array", observes=observes)
        check_env(env, skip_render_check=True)
        assert env.observation_space.shape == shape
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None and picture.shape == (64, 64, 3)
    env.close()


def test_world_and_engine_have_the_same_interface(engine):
    world, real = (make(name) for name in NAMES)
    assert world.observation_space == real.observation_space and world.action_space == real.action_space
    seen = []
    for env in (world, real):
        observation, info = env.reset(seed=1, options={"start": 2})
        seen.append((observation, info))
        after = env.step(np.array([0.5, 0, 0, -1], np.float32))
        assert after[0].shape == observation.shape == (4, 64, 64, 3) and after[4].keys() == info.keys()
    (first, told), (other, same) = seen
    assert np.abs(first.astype(float) - other).mean() < 4  # one is seen through the autoencoder
    assert all(np.array_equal(told[name], same[name]) for name in told)
    assert told["scene"] == f"heldout/{NUMBERS[2]}" and told["instruction"].startswith("pick up the ")
    assert (told["start_things"][:, 2] > ABSENT_POSE[2]).sum() == len(scene("heldout", NUMBERS[2]).things)


def test_a_grasp_is_rewarded_once_and_ends_the_episode(engine, blind):
    one = scene("heldout", NUMBERS[0])
    actions, _ = play(blind, Look.at_end(blind.reset(one)), Pick("cup"), 24)
    env = make(NAMES[1])
    env.reset(options={"start": 0})
    rewards, ended = [], False
    for action in actions:
        assert not ended
        _, reward, ended, truncated, _ = env.step(CONTROLS[action].astype(np.float32))
        rewards.append(reward)
        if ended:
            break
    assert ended and not truncated and rewards[-1] == 1 and not any(rewards[:-1])


def test_without_success_the_episode_is_truncated_and_a_saved_moment_repeats(engine):
    for name in NAMES:
        env = make(name, max_steps=2, instruction="push the ball to the left")
        env.reset(seed=3)
        env.step(np.array([1, 0, 0, 0], np.float32))
        saved = env.save_state()
        ends = [
            (env.restore_state(saved), env.step(np.array([0, -1, -1, 0], np.float32)))[1] for _ in range(2)
        ]
        np.testing.assert_array_equal(ends[0][0], ends[1][0])
        assert ends[0][1:4] == (0.0, False, True)


def test_a_colour_chooses_the_scenes():
    env = make(NAMES[0], instruction="pick up the navy cup")
    placed = [start.scene.placed("cup") for start in env.starts]
    assert env.starts and all(cup is not None and cup.colour == "navy" for cup in placed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"instruction": "eat the cup"}, "no instruction 'eat the cup': expected 'pick up the"),
        ({"instruction": "pick up the lime cup"}, "none of 8 scenes lets anybody pick up the lime cup"),
        ({"split": "mars", "numbers": [1]}, "no split 'mars' of Hands scenes"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"render_mode": "ascii"}, "render_mode is 'ascii'"),
        ({"weights": "nowhere"}, "nowhere holds no trained weights"),
    ],
)
def test_mistakes_are_one_sentence(options, said):
    with pytest.raises(UserError, match=said):
        make(NAMES[0], **options)


def test_wrong_controls_are_named():
    env = make(NAMES[0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(4))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"4 controls \(x, y, z, opening\) from -1 to 1"):
        env.step(np.array([2.0, 0, 0, 0]))


def test_a_run_a_device_and_numpys_seeds_are_taken(tmp_path):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    shutil.copy(WEIGHTS.shipped / WEIGHTS.net, tmp_path / "run" / "weights")
    env = make(NAMES[0], weights=tmp_path / "run", device="cpu")
    first, _ = env.reset(seed=np.int64(3))
    np.testing.assert_array_equal(first, env.reset(seed=3)[0])


def test_every_frame_can_be_recorded_at_its_own_rate():
    one, every = (make(NAMES[0], render_mode=mode) for mode in ("rgb_array", "rgb_array_list"))
    assert one.metadata["render_fps"] * 4 == every.metadata["render_fps"] == SPEC.fps
    every.reset(seed=0)
    observation, *_ = every.step(np.array([1, 0, 0, 0], np.float32))
    frames = every.render()
    assert len(frames) == 5 and every.render() == []
    np.testing.assert_array_equal(np.stack(frames[1:]), observation)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_vector_are_single_environments(name, request):
    """Two rows at different moments of different scenes, though they share a world model or an engine."""
    if name == NAMES[1]:
        request.getfixturevalue("engine")  # or skip
    options = {"num_steps": 1} if name == NAMES[0] else {}
    many = gymnasium.make_vec(
        f"worldcompass:{name}", num_envs=2, vectorization_mode="vector_entry_point", **options
    )
    observations, infos = many.reset(seed=3)
    assert observations.shape == (2, 4, 64, 64, 3) and infos["scene"][0] != infos["scene"][1]
    alone = make(name)
    np.testing.assert_array_equal(observations[1], alone.reset(seed=4)[0])
    held = np.array([[-0.5, 0.5, 0, 1], [0.5, 0, 0, -1]], np.float32)
    for _ in range(2):
        np.testing.assert_array_equal(many.step(held)[0][1], alone.step(held[1])[0])
    many.close()
    alone.close()
    with pytest.raises(UserError, match="num_envs is 0, expected 1 or more"):
        gymnasium.make_vec(f"worldcompass:{name}", num_envs=0, vectorization_mode="vector_entry_point")
