"""The engine tells the truth: motions, poses, walls, determinism, and the dataset made from it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from worldcompass.errors import UserError
from worldcompass.geometry import label_from_motion, labels_from_poses, level_motion, motion_signs
from worldcompass.recipes.demo import demo
from worldcompass.rewards.cycle import returns
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.engine import Engine, poses_from_cameras
from worldcompass.worlds.doom.engine.facts import ACTIONS, FRAMES_PER_LATENT, MOTION, THRESHOLDS
from worldcompass.worlds.doom.engine.feasible import MOTIONS, distance_to_walls, feasible_latents
from worldcompass.worlds.doom.engine.maps import ALL, CRITIC, TRAINING, UNSEEN, find_map
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all, training_scenarios
from worldcompass.worlds.doom.experiment import training_parts
from worldcompass.worlds.small.data import fingerprint, load


@pytest.fixture(scope="module")
def engine():
    with Engine(find_map("my_way_home"), depth=True) as game:
        yield game


def test_every_motion_moves_the_camera_by_its_nominal_amount(engine):
    """In free space each of the 32 motions is read back from the engine's own poses."""
    right = 0
    for action in MOTIONS:
        camera = engine.reset(11).cameras_F5[-1]
        if not feasible_latents(action, 2, camera, engine.walls_L4) >= 2:
            continue
        engine.act(action)  # the first latent ends the acceleration
        before = engine.act(action)
        after = engine.act(0)
        assert before is not None and after is not None
        cameras = np.stack([camera, before.cameras_F5[-1]])
        pose = poses_from_cameras(cameras)
        motion = level_motion(pose[0], pose[1])
        assert label_from_motion(motion / 2, THRESHOLDS) == action
        signs = motion_signs(torch.tensor(action))
        expected = 2 * signs[2:] * torch.tensor([MOTION.yaw_deg, MOTION.pitch_deg])
        torch.testing.assert_close(motion[2:], expected, atol=0.1, rtol=0)
        if signs[:2].any():
            assert 1.6 * MOTION.move < motion[:2].norm() < 2.1 * MOTION.move
        right += 1
    assert right >= 24


def test_pitch_and_yaw_signs_agree_with_the_pixels(engine):
    """Looking up moves the picture down, turning right moves it left: checked on frames, not on variables."""

    def shift(action: int) -> tuple[float, float]:
        frames = [engine.reset(7).frames_Fhw3[-1]]
        steps = engine.act(action)
        assert steps is not None
        frames.append(steps.frames_Fhw3[-1])
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32) for f in frames]
        return cv2.phaseCorrelate(*grey)[0]

    assert shift(3)[1] > 1.5  # pitch up
    assert shift(1)[0] < -2  # yaw right


def test_depth_comes_with_the_frames_when_asked_for(engine):
    steps = engine.reset(1)
    assert steps.depth_Fhw is not None and steps.depth_Fhw.std() > 0


def test_an_episode_repeats_exactly(engine):
    def play() -> np.ndarray:
        engine.reset(5)
        return np.concatenate([engine.act(a).frames_Fhw3 for a in (9, 1, 27, 3)])

    np.testing.assert_array_equal(play(), play())


def test_distance_to_walls_is_the_distance_to_the_segment():
    walls = np.array([[0, 0, 10, 0]], np.float32)
    points = np.array([[5, 3], [13, 4], [-3, -4]], np.float32)
    np.testing.assert_allclose(distance_to_walls(points, walls), [3, 5, 5], atol=1e-5)


def test_splits_share_no_map_with_the_unseen_ones():
    assert not {m.name for m in UNSEEN} & {m.name for m in TRAINING + CRITIC}
    assert any(m.outdoor for m in TRAINING) and any(m.outdoor for m in UNSEEN)


def test_unknown_map_names_the_maps():
    with pytest.raises(UserError, match=r"unknown map 'nowhere': expected a level .*or one of my_way"):
        find_map("nowhere")
    assert "my_way_home" in ALL


def test_most_commands_are_carried_out_and_the_card_says_so(dataset):
    card = (dataset / "card.md").read_text()
    shard = load(dataset, "train", collect.FORMAT)[0]
    truth = np.stack([collect.true_labels(episode.cameras_F5) for episode in shard])
    share = (truth == np.stack([episode.commands_M for episode in shard]))[:, 1:].mean()
    assert share > 0.9
    assert "Commands carried out exactly" in card and "forward" in card


def test_the_card_holds_the_fingerprint_of_the_data(dataset):
    assert fingerprint(dataset) in (dataset / "card.md").read_text()


def test_a_shard_is_a_function_of_its_plan_and_a_finished_one_is_kept(dataset, short_shards, tmp_path):
    shard = next(s for s in collect.plan(2000, 3, ["my_way_home"]) if s.split == "heldout")
    collect.collect_shard(shard, tmp_path)
    again, first = (np.load(shard.folder(root) / "frames.npy") for root in (tmp_path, dataset))
    np.testing.assert_array_equal(again, first)
    stamp = (shard.folder(dataset) / "frames.npy").stat().st_mtime_ns
    collect.collect(dataset, frames=2000, seed=3, workers=1, maps=["my_way_home"])
    assert (shard.folder(dataset) / "frames.npy").stat().st_mtime_ns == stamp


def test_a_dataset_of_another_seed_is_refused(dataset):
    with pytest.raises(UserError, match="holds a dataset made with"):
        collect.collect(dataset, frames=2000, seed=4, maps=["my_way_home"])


def test_evaluation_scenarios_are_frozen_and_the_engine_carries_them_out():
    plans = evaluation_plans()
    assert {p.kind for p in plans} == {"basic", "combined"}
    assert all(ACTIONS.kind(a) == p.kind for p in plans for a in p.labels[1:])
    chosen = [p for p in plans if p.map_name in ("my_way_home", "multi_deathmatch")][:4]
    for scenario in replay_all(chosen, 12):
        assert scenario.truth is not None
        assert scenario.truth.frames_F3hw.shape[0] == 1 + 11 * FRAMES_PER_LATENT
        assert scenario.truth.actions.labels_K.equal(scenario.actions.labels_K)
        assert labels_from_poses(scenario.actions.world_from_camera_K44, THRESHOLDS).equal(
            scenario.actions.labels_K
        )


def test_out_and_back_paths_come_back():
    plain, returning = (training_scenarios(1, 13, 3, out_and_back=back) for back in (False, True))
    for scenario in returning:
        poses = scenario.actions.world_from_camera_K44
        assert len(returns(poses, THRESHOLDS, 13)) >= 4
    assert sum(len(returns(s.actions.world_from_camera_K44, THRESHOLDS, 13)) for s in plain) < 4


def test_a_recipe_s_cycle_weight_adds_the_critic_and_paths_that_it_scores():
    plain = replace(demo(), scenarios_per_map=1)
    parts = training_parts(replace(plain, cycle_weight=0.5), "cpu")
    names = [critic.name for critic in parts.critics]
    assert names == ["interaction", "quality", "likeness", "steadiness", "cycle"]
    assert parts.config.rewards.weights["cycle"] == 0.5
    for scenario in parts.scenarios:
        second = scenario.actions.latents(0, 8).world_from_camera_K44
        assert returns(second, THRESHOLDS, 4), "the second chunk comes back somewhere"
    assert "cycle" not in training_parts(plain, "cpu").config.rewards.weights


def test_larger_frames_show_the_same_play():
    with (
        Engine(find_map("my_way_home")) as small,
        Engine(find_map("my_way_home"), frame_size=(240, 320)) as large,
    ):
        seen = [[engine.reset(5), engine.act(9)] for engine in (small, large)]
    for own, other in zip(*seen, strict=True):
        assert other.frames_Fhw3.shape[1:] == (240, 320, 3)
        np.testing.assert_array_equal(own.cameras_F5, other.cameras_F5)
        shrunk = np.stack([cv2.resize(f, (64, 48), interpolation=cv2.INTER_AREA) for f in other.frames_Fhw3])
        assert np.abs(shrunk.astype(int) - own.frames_Fhw3).mean() < 6
