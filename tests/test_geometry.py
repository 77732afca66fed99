"""Actions, poses and path strings."""

import math

import pytest
import torch

from worldcompass.geometry import (
    NUM_ACTIONS,
    LabelThresholds,
    Motion,
    action_name,
    angles_from_rotation,
    commanded,
    keys_of,
    kind_of_action,
    label,
    label_from_motion,
    label_of_keys,
    labels_from_poses,
    motion_signs,
    nominal_poses,
    parse_path,
    path_of,
    rotation_from_angles,
    split_label,
)

MOTION = Motion(move=2.0, yaw_deg=9.0, pitch_deg=3.0, level=True, substeps=4)
THRESHOLDS = LabelThresholds(move=1.0, yaw_deg=4.0, pitch_deg=1.5)


def test_labels_compose_and_split():
    labels = torch.arange(NUM_ACTIONS)
    translation, rotation = split_label(labels)
    assert [label(int(t), int(r)) for t, r in zip(translation, rotation, strict=True)] == labels.tolist()
    assert action_name(0) == "none" and action_name(label(5, 2)) == "forward-right + yaw left"


def test_the_number_of_basic_and_combined_actions():
    kinds = [kind_of_action(i) for i in range(NUM_ACTIONS)]
    assert (kinds.count("none"), kinds.count("basic"), kinds.count("combined")) == (1, 8, 72)


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


def test_a_straight_walk_moves_by_the_nominal_length_and_a_diagonal_no_further():
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


def test_paths_are_read_and_mistakes_named():
    assert parse_path("w-2, right-1, w+left-1").tolist() == [0, 9, 9, 1, label(1, 2)]
    for wrong in ("x-2", "w", "w-0", "w+w-1", "w+s+w-1", ""):
        with pytest.raises(ValueError, match="path"):
            parse_path(wrong)
    for impossible in ("w+s-1", "w-1, a+d+left-2", "up+down-3"):
        with pytest.raises(ValueError, match="opposite ways at once: leave one out"):
            parse_path(impossible)


def test_every_path_can_be_written_and_read_again():
    labels = [0, *range(NUM_ACTIONS), 80, 80]
    assert parse_path(path_of(labels)).tolist() == labels
    assert path_of([0, 9, 9, 0, label(1, 2)]) == "w-2, none-1, w+left-1" and path_of([0]) == ""
    assert all(label_of_keys(keys_of(index)) == index for index in range(NUM_ACTIONS))
    assert label_of_keys(["w", "s", "left"]) == 2  # opposite keys cancel
    with pytest.raises(ValueError, match="unknown key 'jump'"):
        label_of_keys(["w", "jump"])


@pytest.mark.parametrize("text", ["w-11", "w-6, a-5", "w-999999999"])
def test_a_long_path_is_refused_before_it_is_made(text):
    assert len(parse_path("w-6, a-4", longest=10)) == 11
    with pytest.raises(ValueError, match="more than 10 latents"):
        parse_path(text, longest=10)
    with pytest.raises(ValueError, match="cannot read 'w-9999999999'"):
        parse_path("w-9999999999")


def test_commanded_actions_are_sliceable():
    actions = commanded(parse_path("w-7"), MOTION, torch.tensor([1.0, 1, 0.5, 0.5]))
    assert len(actions) == 8 and len(actions.latents(4, 8)) == 4
    assert motion_signs(actions.latents(4, 8).labels_K).tolist() == [[0, 1, 0, 0]] * 4
