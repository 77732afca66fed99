"""The words of a path, the numbers of composites and the limits of both kinds of action spaces."""

import pytest
import torch
from camera_paths import CAMERAS, parse_path

from worldcompass import actions
from worldcompass.actions import CameraActions
from worldcompass.geometry import NUM_ACTIONS, LabelThresholds, Motion, label, motion_signs
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, WorldPlayActions


def test_the_number_of_basic_and_combined_actions():
    kinds = [CAMERAS.kind(i) for i in range(NUM_ACTIONS)]
    assert (kinds.count("none"), kinds.count("basic"), kinds.count("combined")) == (1, 8, 72)


def test_paths_are_read_and_mistakes_named():
    assert CAMERAS.parse("w-2, right-1, w+left-1").tolist() == [0, 9, 9, 1, label(1, 2)]
    for wrong in ("x-2", "w", "w-0", "w+w-1", "w+s+w-1", ""):
        with pytest.raises(ValueError, match="path"):
            CAMERAS.parse(wrong)
    for impossible in ("w+s-1", "w-1, a+d+left-2", "up+down-3"):
        with pytest.raises(ValueError, match="opposite ways at once: leave one out"):
            CAMERAS.parse(impossible)


def test_every_path_can_be_written_and_read_again():
    labels = [0, *range(NUM_ACTIONS), 80, 80]
    assert CAMERAS.parse(CAMERAS.path(labels)).tolist() == labels
    assert CAMERAS.path([0, 9, 9, 0, label(1, 2)]) == "w-2, none-1, w+left-1" and CAMERAS.path([0]) == ""
    assert all(CAMERAS.of_words(CAMERAS.words(index)) == index for index in range(NUM_ACTIONS))
    assert CAMERAS.of_words(["w", "s", "left"]) == 2  # opposite keys cancel
    with pytest.raises(ValueError, match="unknown key 'jump'"):
        CAMERAS.of_words(["w", "jump"])


@pytest.mark.parametrize("text", ["w-11", "w-6, a-5", "w-999999999"])
def test_a_long_path_is_refused_before_it_is_made(text):
    assert len(CAMERAS.parse("w-6, a-4", longest=10)) == 11
    with pytest.raises(ValueError, match="more than 10 latents"):
        CAMERAS.parse(text, longest=10)
    with pytest.raises(ValueError, match="cannot read 'w-9999999999'"):
        CAMERAS.parse("w-9999999999")


def test_commanded_actions_are_sliceable():
    actions = CAMERAS.along("w-7")
    assert len(actions) == 8 and len(actions.latents(4, 8)) == 4
    assert motion_signs(actions.latents(4, 8).labels_K).tolist() == [[0, 1, 0, 0]] * 4


def test_fractions_of_a_latent_are_cut_off_as_in_official_pose_strings():
    assert torch.equal(parse_path("w-3, right-0.5, d-4"), parse_path("w-3, d-4"))
    assert torch.equal(parse_path("right-2.9"), parse_path("right-2"))
    for text in ("right-0.5", "w-0.0", "w--1", "w-1e3", "w-."):
        with pytest.raises(ValueError, match=r"lasts less than one latent|cannot read"):
            parse_path(text)


@pytest.mark.parametrize(
    "space",
    [
        CameraActions(Motion(0.3, 7.0, 5.0, level=False), LabelThresholds(1e-3, 0.1, 0.1)),
        CameraActions(Motion(8.0, 6.0, 7.0, level=True, substeps=4), LabelThresholds(1.0, 1.0, 1.0), 20.0),
        WorldPlayActions(MOTION, THRESHOLDS),
    ],
    ids=["free", "level", "worldplay"],
)
def test_a_long_walk_goes_on_from_its_last_pose(space):
    """Step by step as the whole path at once, also over the head, where yaw and pitch have two readings."""
    generator = torch.Generator().manual_seed(0)
    past = space.commanded(torch.zeros(2, 1, dtype=torch.long))
    for _ in range(400):
        coming = torch.randint(0, 81, (2, 1), generator=generator)
        past = space.follow(past, space.commanded(coming), 1)
    nominal = space.commanded(past.labels_K, like=past)
    torch.testing.assert_close(
        past.world_from_camera_K44, nominal.world_from_camera_K44, atol=2e-4, rtol=1e-5
    )
    assert torch.equal(past.intrinsics_K4, nominal.intrinsics_K4)


def test_a_step_of_a_long_walk_computes_no_earlier_pose(monkeypatch):
    """Else its time grows with the episode."""
    space, asked = CameraActions(Motion(0.3, 7.0, 5.0, level=False), LabelThresholds(1e-3, 0.1, 0.1)), []
    past = space.commanded(torch.ones(1, 300, dtype=torch.long))
    coming = space.commanded(torch.ones(1, 1, dtype=torch.long))
    plain = actions.nominal_poses
    monkeypatch.setattr(
        actions, "nominal_poses", lambda labels, *a: asked.append(labels.shape) or plain(labels, *a)
    )
    space.follow(past, coming, 2)
    assert asked == [(1, 2)]
