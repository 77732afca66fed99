"""The environments keep Gymnasium's contract, seeds and saved moments, and rows of a batch are single episodes."""

import warnings
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from camera_paths import CAMERAS
from controls_of_a_gripper import GRIPPER, MOUSE
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from lamp_page import Brightness, LampWorld, MixedLamp, mixed_walks, walks

from worldcompass.controls import Axis, Controls, button
from worldcompass.env import WorldEnv, WorldVectorEnv, gym_space
from worldcompass.errors import UserError
from worldcompass.toy import ToyWorld, toy_scenarios
from worldcompass.types import Group, Scores
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing


def brightness(frames, actions):
    return frames.float().mean().item() + int(actions.labels_K[-1])


def toy_env(**options) -> WorldEnv:
    return WorldEnv(ToyWorld(), toy_scenarios(3), **options)


def play(env, actions, seed=7):
    """Observations and rewards of an episode."""
    first, _ = env.reset(seed=seed)
    steps = [env.step(np.array(a)) for a in actions]
    return [first, *(s[0] for s in steps)], [s[1] for s in steps]


ACTIONS = [(1, 0), (1, 2), (0, 0), (5, 8)]


def test_gymnasiums_own_checker_is_content(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # the checker tries every way of rendering
    made = gymnasium.make("worldcompass:worldcompass/Doom-v0", num_steps=1, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(toy_env(reward=brightness, render_mode="rgb_array"), skip_render_check=True)
        check_env(made.unwrapped)


def test_the_embedded_world_is_made_by_its_name():
    env = gymnasium.make("worldcompass/Doom-v0", num_steps=1, reward=InteractionFollowing(), max_steps=2)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation.shape == (4, 48, 64, 3)
    observation, reward, terminated, truncated, info = env.step(np.array([1, 0]))
    assert 0 < reward <= 1 and info["scored"] and info["label"] == 9
    assert not terminated and not truncated
    np.testing.assert_allclose(info["world_from_camera"][2, 3], 22.0, rtol=1e-5)
    assert env.step(np.array([0, 1]))[3]


def test_the_same_seed_is_the_same_episode_and_another_is_not():
    one, same, other = (play(toy_env(), ACTIONS, seed)[0] for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[-1], other[-1])


def test_rows_of_a_batch_are_single_episodes():
    batch = WorldVectorEnv(ToyWorld(), toy_scenarios(3), 3, reward=brightness)
    observations, rewards = play(batch, [[a] * 3 for a in ACTIONS])
    for row in range(3):
        alone, alone_rewards = play(toy_env(reward=brightness), ACTIONS, 7 + row)
        assert all(np.array_equal(a[row], b) for a, b in zip(observations, alone, strict=True))
        np.testing.assert_allclose([r[row] for r in rewards], alone_rewards)


def test_a_batch_is_truncated_together_and_begins_anew():
    env = WorldVectorEnv(ToyWorld(), toy_scenarios(3), 2, max_steps=2)
    env.reset(seed=0)
    stay = np.zeros((2, 2), int)
    assert not env.step(stay)[3].any()
    assert env.step(stay)[3].all()
    _, rewards, _, truncated, _ = env.step(stay)
    assert not rewards.any() and not truncated.any()
    assert not env.step(stay)[3].any()
    assert env.step(stay)[3].all()


def test_a_saved_moment_can_be_resumed_twice():
    env = toy_env(reward=brightness)
    play(env, ACTIONS[:2])
    saved, seen = env.save_state(), []
    for _ in range(2):
        env.restore_state(saved)
        seen.append([env.step(np.array(a))[0] for a in ACTIONS[2:]] + [env.reset()[0]])
    for first, second in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, second)


@dataclass
class Shy:
    """Abstains in rooms that are dark."""

    name: str = "shy"

    def __call__(self, group: Group) -> Scores:
        assert group.past_frames_F3hw[0].equal(group.first_frame_3hw)
        return Scores(torch.tensor([2.5]), torch.tensor([len(group.past_frames_F3hw) > 1]))


def test_a_critic_may_be_the_reward_and_may_abstain():
    env = toy_env(reward=Shy())
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.array([1, 0]))
    assert reward == 0 and not info["scored"]
    _, reward, _, _, info = env.step(np.array([1, 0]))
    assert reward == 2.5 and info["scored"]


def test_pictures_are_rendered(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = toy_env(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), observation[-1])
    window = toy_env(render_mode="human")
    window.reset(seed=0)
    assert window.render() is None
    window.close()


def test_a_recorded_video_plays_at_the_worlds_own_speed():
    """One picture per step, or all pictures of every step; both last as long as the walk."""
    fps, per_step, steps = ToyWorld().spec.fps, ToyWorld().spec.frames_per_latent, 3
    one, every = toy_env(render_mode="rgb_array"), toy_env(render_mode="rgb_array_list")
    assert one.metadata["render_fps"] * per_step == every.metadata["render_fps"] == fps
    first, _ = every.reset(seed=0)
    seen = [every.step(np.array(ACTIONS[i]))[0] for i in range(steps)]
    frames = every.render()
    np.testing.assert_array_equal(np.stack(frames), np.concatenate([first[-1:], *seen]))
    assert every.render() == [] and len(frames) == 1 + steps * per_step


def test_the_last_frame_alone_is_an_observation_for_agents_of_pictures():
    env = toy_env(observes="last")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the toy's pictures are tiny
        check_env(env, skip_render_check=True)
    whole, last = play(toy_env(), ACTIONS)[0], play(env, ACTIONS)[0]
    assert all(np.array_equal(a[-1], b) for a, b in zip(whole, last, strict=True))
    batch = WorldVectorEnv(ToyWorld(), toy_scenarios(3), 2, observes="last", render_mode="rgb_array")
    observations, _ = batch.reset(seed=7)
    assert batch.observation_space.contains(observations)
    np.testing.assert_array_equal(np.stack(batch.render()), observations)
    np.testing.assert_array_equal(observations[0], last[0])


def test_seeds_of_numpy_count_and_each_row_needs_one():
    env, batch = toy_env(), WorldVectorEnv(ToyWorld(), toy_scenarios(3), 2)
    np.testing.assert_array_equal(env.reset(seed=np.int64(3))[0], env.reset(seed=3)[0])
    rows = batch.reset(seed=np.int64(3))[0]
    np.testing.assert_array_equal(batch.reset(seed=np.array(3))[0], rows)
    for same in (3, [3, 4], np.array([3, 4])):
        np.testing.assert_array_equal(batch.reset(seed=same)[0], rows)
    for wrong in ([3], [3, 4, 5]):
        with pytest.raises(ValueError, match=f"one seed for each of 2 environments, got {len(wrong)}"):
            batch.reset(seed=wrong)


def test_a_step_of_a_long_episode_copies_no_earlier_frames():
    """Else its time grows with the episode."""
    env = toy_env(max_steps=10_000)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([1, 0]))
    before = env._episode.past
    env.step(np.array([1, 0]))
    after = env._episode.past
    assert len(after) == len(before) + 1 == 4
    assert all(old is kept for old, kept in zip(before, after, strict=False))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="expected rgb_array, rgb_array_list, human or None"):
        toy_env(render_mode="video")
    with pytest.raises(ValueError, match="observes is 'all', expected step or last"):
        toy_env(observes="all")
    with pytest.raises(ValueError, match="expected rgb_array or None"):
        WorldVectorEnv(ToyWorld(), toy_scenarios(3), 2, render_mode="human")
    with pytest.raises(UserError, match="holds no trained weights"):
        gymnasium.make("worldcompass/Doom-v0", weights="no-such-run")
    with pytest.raises(ValueError, match="at least one scenario"):
        WorldEnv(ToyWorld(), [])
    with pytest.raises(ValueError, match="SyncVectorEnv"):
        WorldVectorEnv(ToyWorld(batches_pasts=False), toy_scenarios(2), 2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        toy_env().step(np.array([0, 0]))
    with pytest.raises(ValueError, match="max_steps is 0, expected 1 or more"):
        toy_env(max_steps=0)
    env, vector = toy_env(), WorldVectorEnv(ToyWorld(), toy_scenarios(3), 2)
    for start in (-1, 99, "first"):
        with pytest.raises(ValueError, match="expected 0 to"):
            env.reset(options={"start": start})
    for resettable in (env, vector):
        with pytest.raises(ValueError, match="there is no option begin: expected start"):
            resettable.reset(options={"begin": 1})
    env.reset(seed=0)
    vector.reset(seed=0)
    for action in ([9, 0], [0, 9], [-1, 0], [1], [0.5, 1], 3):  # [0, 9] is not forward, whose number it has
        with pytest.raises(ValueError, match="expected 1 pair of a translation"):
            env.step(np.array(action))
        with pytest.raises(ValueError, match="expected 2 pairs of a translation"):
            vector.step(np.array([action, action]))


def test_the_action_space_is_that_of_the_worlds_actions():
    assert gym_space(CAMERAS) == spaces.MultiDiscrete([9, 9])
    low, high = np.array([-1, -1, -1, -0.5], np.float32), np.array([1, 1, 1, 0.5], np.float32)
    assert gym_space(GRIPPER) == spaces.Box(low, high)
    assert gym_space(Controls((button("a"), button("b")))) == spaces.MultiBinary(2)
    assert gym_space(Controls((Axis("a", levels=3, words=("b", "c")), Axis("d", 0, 4, levels=5)))) == (
        spaces.MultiDiscrete([3, 5])
    )
    assert set(gym_space(MOUSE)) == {"continuous", "levels", "buttons"}


def test_controls_of_several_kinds_are_a_dictionary_that_gymnasium_checks():
    env = WorldEnv(MixedLamp(), mixed_walks(), reward=Brightness())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    env.reset(seed=0)
    given = {"buttons": np.array([0, 1]), "levels": np.array([4]), "continuous": np.array([-0.5])}
    assert env.step(given)[4]["controls"].tolist() == [0, 2, -0.5, 1]
    for wrong in (given["buttons"], {"buttons": given["buttons"]}):
        with pytest.raises(ValueError, match="expected a dictionary of buttons, levels, continuous"):
            env.step(wrong)
    with pytest.raises(ValueError, match=r"expected 1 whole numbers for each of 1 walk \(hue\), got"):
        env.step({**given, "levels": np.array([1.5])})
    with pytest.raises(ValueError, match="the control hue is 3: expected -2 to 2 in 5 even levels"):
        env.step({**given, "levels": np.array([5])})


def test_rows_of_a_batch_of_controls_are_single_episodes():
    batch, alone = WorldVectorEnv(LampWorld(), walks(3), 2), WorldEnv(LampWorld(), walks(3))
    actions = np.array([[0.5, 0, 0, 0], [0, -1, 0.25, 0]])
    batch.reset(seed=3)
    alone.reset(seed=4)
    np.testing.assert_array_equal(batch.step(actions)[0][1], alone.step(actions[1])[0])


def test_a_critic_that_cannot_score_the_worlds_actions_is_refused():
    with pytest.raises(
        ValueError, match="the critic interaction needs camera poses, but this world's actions are"
    ):
        WorldEnv(LampWorld(), walks(2), reward=InteractionFollowing())
