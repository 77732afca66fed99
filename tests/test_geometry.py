"""Labels, poses and nominal paths of a camera."""

import math

import pytest
import torch

from worldcompass.geometry import (
    NUM_ACTIONS,
    LabelThresholds,
    Motion,
    angles_from_rotation,
    label,
    label_from_motion,
    labels_from_poses,
    nominal_poses,
    rotation_from_angles,
    split_label,
)

MOTION = Motion(move=2.0, yaw_deg=9.0, pitch_deg=3.0, level=True, substeps=4)
THRESHOLDS = LabelThresholds(move=1.0, yaw_deg=4.0, pitch_deg=1.5)


def test_labels_compose_and_split():
    labels = torch.arange(NUM_ACTIONS)
    translation, rotation = split_label(labels)
    assert [label(int(t), int(r)) for t, r in zip(translation, rotation, strict=True)] == labels.tolist()


def test_yaw_is_right_and_pitch_is_up_in_opencv_axes():
    forward = rotation_from_angles(torch.tensor(90.0), torch.tensor(0.0)) @ torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(forward, torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    up = rotation_from_angles(torch.tensor(0.0), torch.tensor(90.0)) @ torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(up, torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)


def test_angles_survive_the_rotation_matrix():
    yaw, pitch = torch.tensor([-170.0, 10.0, 89.0]), torch.tensor([-60.0, 0.0, 45.0])
    for a, b in zip(angles_from_rotation(rotation_from_angles(yaw, pitch)), (yaw, pitch), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)


def test_every_commanded_action_is_read_back_from_its_nominal_path():
    for action in range(NUM_ACTIONS):
        labels = torch.tensor([0, action, action, action])
        assert labels_from_poses(nominal_poses(labels, MOTION), THRESHOLDS).tolist() == labels.tolist()
    assert labels_from_poses(torch.eye(4)[None], THRESHOLDS).tolist() == [0], "a start alone"


def test_straight_and_diagonal_moves_have_the_nominal_length():
    poses = nominal_poses(torch.tensor([0, 9, 9]), MOTION)
    torch.testing.assert_close(poses[2, :3, 3], torch.tensor([0.0, 0, 4]))
    diagonal = nominal_poses(torch.tensor([0, 45]), MOTION)[1, :3, 3]
    assert diagonal.norm().item() == pytest.approx(2.0, rel=1e-5)


def test_a_level_walk_stays_on_the_ground_and_a_free_one_does_not():
    labels = torch.tensor([0, 3, 3, 9])
    free = Motion(move=2.0, yaw_deg=9.0, pitch_deg=3.0, level=False)
    assert nominal_poses(labels, MOTION)[-1, 1, 3] == 0
    assert nominal_poses(labels, free)[-1, 1, 3].item() == pytest.approx(
        -2 * math.sin(math.radians(6)), rel=1e-4
    )


def test_motion_within_the_thresholds_is_none():
    assert label_from_motion(torch.tensor([0.6, 0.7, 3.9, -1.4]), THRESHOLDS).item() == 0
    assert label_from_motion(torch.tensor([0.0, 1.1, -4.1, 0.0]), THRESHOLDS).item() == label(1, 2)
