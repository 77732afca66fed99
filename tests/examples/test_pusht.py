"""The worked example of PushT: what its files say of the environment is so."""

import example_pusht  # noqa: F401 (finds the files below)
import numpy as np
import pytest
import torch

from pusht_collect import record_episode
from pusht_engine import BOARD, GOAL, Engine, coverage, gap, on_board, random_state, turned
from pusht_motion import Motion, agent_place, empty_board, placed, thing_share
from pusht_reader import CORNERS, T_COLOUR, Read, fitted, places_of, shape
from pusht_recording import PER_LATENT, SIZE
from pusht_scripts import INERTIA, NORMALS, POINTS, Pusher, pushed, still
from pusht_world import scene_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine():
    return Engine()


def test_a_start_stands_where_it_was_asked_to(engine):
    """The environment sets place and angle in an order that moves the T, which ``begin`` undoes."""
    asked = np.array([100.0, 400.0, 300.0, 200.0, 2.0])
    np.testing.assert_allclose(engine.begin(asked).state_5, asked, atol=1e-3)


@pytest.mark.parametrize("control", [0.5, -0.25])
def test_a_control_moves_the_agent_alone_and_in_proportion(engine, control):
    start = engine.begin(np.array([200.0, 400.0, 350.0, 150.0, 0.0])).state_5
    for _ in range(4):  # until it moves evenly
        before = engine.go(np.tile([control, 0.0], (PER_LATENT, 1))).state_5
    moved = engine.go(np.tile([control, 0.0], (PER_LATENT, 1))).state_5 - before
    assert moved[0] == pytest.approx(40 * control, abs=2) and abs(moved[1]) < 1e-6
    np.testing.assert_allclose(before[2:], start[2:])


def test_pictures_show_the_state(engine):
    """Pixels of the T's colour lie inside the T as the geometry has it, and nowhere else."""
    moment = engine.begin(np.array([60.0, 60.0, 300.0, 300.0, 0.7]))
    side = (np.arange(SIZE) + 0.5) * BOARD / SIZE
    places = np.stack(np.meshgrid(side, side), -1)
    grey = np.abs(moment.picture_hw3 - T_COLOUR).max(-1) < 4
    assert grey.sum() > 50 and gap(places[grey], moment.state_5[2:]).max() == 0
    read = Read(moment.state_5[None, :2], moment.state_5[None, 2:], np.zeros(1))
    frames = torch.from_numpy(moment.picture_hw3.copy()).movedim(-1, 0)[None]
    assert shape(frames, read)[0] > 0.8
    assert shape(torch.full_like(frames, 255), read)[0] == 0


def test_the_goal_is_covered_by_a_t_that_lies_there():
    assert coverage(GOAL) == 1
    assert 0.2 < coverage(GOAL + np.array([15, 0, 0])) < 0.8
    assert coverage(GOAL + np.array([200, 0, 0])) == 0


def test_the_scripts_know_how_the_t_moves_when_it_is_pushed(engine):
    """At a contact off the centre it turns as the formula says."""
    pose, contact = np.array([256.0, 200.0, 0.0]), int(np.argmax(POINTS[:, 0] * (NORMALS[:, 1] == -1)))
    agent = on_board(POINTS[contact][None], pose)[0] + NORMALS[contact] * 15.5
    before = engine.begin(np.concatenate([agent, pose])).state_5
    after = engine.go(np.tile([0.0, 0.3], (PER_LATENT, 1))).state_5
    pressed = (after - before)[1]
    expected = pushed(pose, pressed - 0.5)[contact]
    assert INERTIA > 0 and pressed > 5
    np.testing.assert_allclose(after[2:4], expected[:2], atol=1.5)
    assert after[4] == pytest.approx(expected[2], abs=0.02)


def test_a_script_brings_the_t_nearer_to_the_goal_than_rest(engine):
    start = np.array([400.0, 330.0, 330.0, 200.0, 1.3])
    covered = {}
    for name, script in {"script": Pusher(GOAL.copy()), "still": still}.items():
        moment = engine.begin(start)
        for _ in range(45):
            moment = engine.go(np.clip(script(moment.state_5), -1, 1))
        covered[name] = coverage(moment.state_5[2:])
    assert covered["script"] > covered["still"] + 0.3


def test_episodes_are_recorded_alike_again(engine):
    first, again = (record_episode(engine, "train", 3, latents=6) for _ in range(2))
    for one, two in zip(vars(first).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not first.controls_M22[0].any() and np.abs(first.controls_M22).max() <= 1
    assert not np.array_equal(
        record_episode(engine, "heldout", 3, latents=2).frames_Fhw3, first.frames_Fhw3[:2]
    )


def test_random_starts_keep_agent_and_t_apart():
    rng = np.random.default_rng(0)
    states = [random_state(rng) for _ in range(20)]
    assert all(gap(state[:2], state[2:]) > 15 for state in states)


def test_a_pose_is_read_from_its_points_and_a_bent_t_shows():
    states = np.array([[0, 0, 100, 200, 0.7], [0, 0, 300, 50, -2.5]])
    points = places_of(states)[:, 1:]
    poses, bent = fitted(points)
    np.testing.assert_allclose(poses, states[:, 2:], atol=1e-9)
    assert bent.max() < 1e-9 and points.shape[1] == len(CORNERS)
    assert fitted(points * [1.0, 0.5])[1].min() > 5


def pictures(*moments):
    """Pictures of the engine as the world sees them, (N, 3, 64, 64) in [0, 1]."""
    frames = np.stack([moment.picture_hw3 for moment in moments])
    return torch.from_numpy(frames).movedim(-1, 1).float() / 255


@pytest.mark.parametrize("turn", [0.3, -2.0, 3.1])
def test_where_things_are_is_read_from_pixels(engine, turn):
    """A T that lies on the goal, with the agent at its side, against one that lies free."""
    start = engine.begin(np.array([60.0, 60.0, 200.0, 300.0, 0.4]))
    pose = np.array([260.0, 240.0, 0.4 + turn])
    beside = on_board(POINTS[:1], pose)[0] + turned(pose[2]) @ NORMALS[0] * 16
    later = engine.begin(np.array([*beside, *pose]))
    now, before = placed(pictures(later), pictures(start))
    board = BOARD / SIZE
    np.testing.assert_allclose(now.agent_N2[0] * board, beside, atol=2.5)
    centres = np.array([on_board(np.array([[0, 40.7]]), p)[0] for p in (pose, start.state_5[2:])])
    moved = ((now.middle_N2 - before.middle_N2)[0] * board).numpy()
    np.testing.assert_allclose(moved, centres[0] - centres[1], atol=3)
    off = (float(now.angle_N - before.angle_N) - turn + np.pi) % (2 * np.pi) - np.pi
    assert abs(off) < np.radians(1)


def test_the_scene_shows_the_t_where_a_motion_takes_it_and_no_agent(engine):
    start = engine.begin(np.array([200.0, 180.0, 240.0, 260.0, 0.4]))
    goal = np.array([300.0, 200.0, 1.6])
    shown, wanted = pictures(start), pictures(engine.begin(np.array([40.0, 470.0, *goal])))
    now, begun = placed(shown, shown)
    centres = [on_board(np.array([[0, 40.7]]), pose)[0] * SIZE / BOARD for pose in (goal, start.state_5[2:])]
    shift = torch.tensor(centres[0] - centres[1]).float()[None]
    scene = scene_of(shown, begun, now, Motion(shift, torch.tensor([1.2])))
    share = thing_share(wanted, agent_place(wanted))
    far = torch.ones(SIZE, SIZE, dtype=bool)
    far[54:, :10] = False  # where the wanted picture has its agent
    error = (scene - wanted).abs().amax(1)[0] * far
    assert error[share[0] > 0.99].mean() < 0.05, "the T is as dark as in the start picture"
    assert (error > 0.25).sum() < 12, "edges lie where they should"
    assert ((scene - empty_board()).abs().amax(1)[0] * (share[0] == 0) * far).max() < 0.25


def test_a_t_that_nothing_moves_stays_as_it_is(engine):
    start = engine.begin(np.array([60.0, 60.0, 200.0, 300.0, 0.4]))
    shown = pictures(start)
    now, begun = placed(shown, shown)
    still = Motion(torch.zeros(1, 2), torch.zeros(1))
    covered = thing_share(shown, begun.agent_N2)[0] > 0.05
    assert (scene_of(shown, begun, now, still) - shown)[0, :, covered].abs().max() < 0.02
