"""Properties of the geometry that every number about cameras rests on, for whatever hypothesis can think of."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldcompass.geometry import (
    LabelThresholds,
    Motion,
    camera_motion,
    label_from_motion,
    level_motion,
    nominal_poses,
    opposite,
    pose,
    relative_pose,
    rotation_angle,
    rotation_from_angles,
    split_label,
    umeyama,
)
from worldcompass.rewards.cameras import CameraPath, calibrated_thresholds
from worldcompass.rewards.pose_error import segment_errors
from worldcompass.worlds.doom.rewards.cameras import path_of_level_motion

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("repeatable")

MOTION = Motion(move=22.0, yaw_deg=8.0, pitch_deg=4.8, level=False)
LIMITS = LabelThresholds(move=8.0, yaw_deg=3.0, pitch_deg=1.8)
CAMERA = torch.tensor([0.5, 0.6, 0.5, 0.5])

lengths = st.floats(-100, 100, width=32)
angles = st.floats(-170, 170, width=32)
tilts = st.floats(-60, 60, width=32)
labels = st.integers(0, 80)


@st.composite
def poses(draw):
    rotation = rotation_from_angles(torch.tensor(draw(angles)).double(), torch.tensor(draw(tilts)).double())
    return pose(rotation, torch.tensor([draw(lengths) for _ in range(3)]).double())


@given(poses(), poses())
def test_a_relative_pose_leads_from_one_pose_to_the_other(a, b):
    torch.testing.assert_close(a @ relative_pose(a, b), b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(relative_pose(a, a), torch.eye(4).double(), atol=1e-6, rtol=0)


@given(poses(), poses(), poses(), st.floats(0.01, 50))
def test_motion_is_independent_of_the_origin_and_scales_with_lengths(world, a, b, scale):
    seen = camera_motion(a, b)
    torch.testing.assert_close(camera_motion(world @ a, world @ b), seen, atol=1e-4, rtol=1e-4)
    small, large = a.clone(), b.clone()
    small[:3, 3] *= scale
    large[:3, 3] *= scale
    scaled = camera_motion(small, large)
    torch.testing.assert_close(scaled[:2], scale * seen[:2], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scaled[2:], seen[2:], atol=1e-5, rtol=1e-5)


@given(poses(), poses(), poses())
def test_the_angle_between_rotations_is_a_distance(a, b, c):
    def apart(x, y):
        return float(rotation_angle(relative_pose(x, y)[:3, :3]))

    assert 0 <= apart(a, b) <= 180 + 1e-6
    assert abs(apart(a, b) - apart(b, a)) < 1e-4
    assert apart(a, c) <= apart(a, b) + apart(b, c) + 1e-4


@given(poses(), st.floats(0.01, 50), st.integers(0, 10_000))
def test_umeyama_undoes_any_similarity(transform, scale, seed):
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = scale * points @ transform[:3, :3].T + transform[:3, 3]
    found_scale, rotation, shift = umeyama(points, moved)
    torch.testing.assert_close(found_scale, torch.tensor(scale).double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found_scale * points @ rotation.T + shift, moved, rtol=1e-6, atol=1e-6)


@given(st.lists(labels, min_size=1, max_size=8), st.floats(0.01, 50))
def test_errors_of_a_path_do_not_see_its_scale(commands, scale):
    wanted = nominal_poses(torch.tensor([0, *commands]), MOTION)
    seen = wanted.clone()
    seen[:, :3, 3] *= scale
    turn_deg, move = segment_errors(seen[None], wanted)
    assert float(turn_deg.max()) < 0.1 and float(move.max()) < 1e-3 * max(
        1.0, float(wanted[:, :3, 3].abs().max())
    )


@given(labels)
def test_commands_are_read_back_and_undone(command):
    path = nominal_poses(torch.tensor([0, command]), MOTION)
    assert int(label_from_motion(camera_motion(path[0], path[1]), LIMITS)) == command
    assert opposite(opposite(command)) == command
    assert (command == opposite(command)) == (command == 0)


@given(st.lists(st.tuples(lengths, lengths, st.floats(-30, 30), st.floats(-2, 2)), min_size=1, max_size=6))
def test_level_motion_becomes_a_path_and_is_read_back(steps):
    motion = torch.tensor(steps, dtype=torch.float64)
    path = path_of_level_motion(motion[None])[0]
    torch.testing.assert_close(level_motion(path[:-1], path[1:]), motion, atol=1e-3, rtol=1e-3)


@given(
    st.lists(st.floats(0, 0.9), min_size=1, max_size=6),
    st.lists(st.floats(1.1, 9), min_size=1, max_size=6),
    st.floats(0.001, 100),
)
def test_one_threshold_tells_moving_from_standing_in_any_unit(standing, moving, unit):
    length = unit * torch.tensor([*standing, *moving])
    motion = torch.stack(
        [torch.zeros_like(length), length, torch.zeros_like(length), torch.zeros_like(length)], -1
    )
    seen = CameraPath(path_of_level_motion(motion[None]), CAMERA, torch.ones(1, len(length)))
    truth = torch.tensor([0] * len(standing) + [9] * len(moving))
    found = calibrated_thresholds([seen], [truth], LIMITS).move
    read = split_label(label_from_motion(motion, LabelThresholds(found, 3.0, 1.8)))[0]
    assert ((read > 0) == (truth > 0)).all()
