"""Random composite trajectories, and the pose files that the command writes."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from camera_paths import CAMERAS, parse_path
from controls_of_a_gripper import GRIPPER

from worldcompass import cli
from worldcompass.actions import CameraActions
from worldcompass.controls import Controls, button
from worldcompass.geometry import label
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS, TRAINING_MOTION, camera_path
from worldcompass.worlds.trajectories import (
    FAMILIES,
    HOLD_MAX,
    HOLD_MIN,
    METHOD_MIX,
    draw_motion,
    mix_of,
    parse_mix,
    random_composites,
)
from worldcompass.worlds.worldplay.pose_files import read_poses, write_poses
from worldcompass.worlds.worldplay.trajectories import random_trajectories, random_trajectory


def test_motions_are_those_of_the_method_by_their_families_weights():
    assert sum(map(len, FAMILIES.values())) == len({a for family in FAMILIES.values() for a in family}) == 32
    rng, draws = np.random.default_rng(0), 4000
    drawn = [draw_motion(rng) for _ in range(draws)]
    for weight, actions in METHOD_MIX:
        share = weight / 25
        assert abs(sum(a in actions for a in drawn) / draws - share) < 4 * (share / draws) ** 0.5


def test_motions_are_held_as_in_the_method_after_a_still_start():
    labels = random_composites(np.random.default_rng(1), 2000)
    assert labels.shape == (2000,) and labels[0] == 0 and labels[1] != 0
    runs = [len(list(run)) for _, run in groupby(labels[1:-HOLD_MAX].tolist())]
    assert min(runs[:-1]) >= HOLD_MIN
    assert set(range(HOLD_MIN, HOLD_MAX + 1)) <= set(runs)


def test_a_mix_of_families_and_keys_draws_nothing_else():
    mix = parse_mix("yaw=1, w+left=3, pitch=0", CAMERAS)
    labels = set(random_composites(np.random.default_rng(0), 400, mix).tolist()) - {0}
    assert labels == {label(0, 1), label(0, 2), int(parse_path("w+left-1")[1])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fly=1", "there is no motion 'fly': expected one of move, yaw"),
        ("move", "expected NAME=WEIGHT"),
        ("move=-1", "a weight of 0 or more"),
        ("move=much", "a weight of 0 or more"),
        ("move=0", "nothing could be drawn"),
    ],
)
def test_unreadable_mixes_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_mix(text, CAMERAS)


def test_every_trajectory_has_a_seed_of_its_own():
    """Drawing more leaves the first ones as they were."""
    few, many = random_trajectories(2, 32, seed=5), random_trajectories(4, 32, seed=5)
    assert all(torch.equal(a.labels_K, b.labels_K) for a, b in zip(few, many, strict=False))
    assert len({tuple(t.labels_K.tolist()) for t in many}) == 4
    assert torch.equal(random_trajectory(32, (5, 3)).labels_K, many[3].labels_K)


def test_the_command_writes_what_it_drew(tmp_path, capsys):
    words = ["trajectories", "--count", "2", "--latents", "20", "--seed", "7", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert "2 trajectories of 20 latents" in capsys.readouterr().out
    for i, expected in enumerate(random_trajectories(2, 20, seed=7)):
        found = read_poses(tmp_path / f"{i:05d}.json")
        assert torch.equal(found.labels_K, expected.labels_K)
        path = camera_path(expected.labels_K, TRAINING_MOTION).float()
        torch.testing.assert_close(found.world_from_camera_K44, path)


def test_the_command_follows_a_path_with_the_motion_that_is_asked_for(tmp_path):
    words = [
        "trajectories",
        "--path",
        "w-2, right-1",
        "--move",
        "0.5",
        "--turn",
        "10",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    found = read_poses(tmp_path / "path.json")
    assert found.labels_K.tolist() == parse_path("w-2, right-1").tolist()
    assert found.world_from_camera_K44[2, 2, 3] == 1.0
    assert torch.rad2deg(torch.acos(found.world_from_camera_K44[3, 0, 0])).item() == pytest.approx(
        10, abs=1e-3
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--path", "w-3, fly-4"], "cannot read 'fly-4'"),
        (["--path", "w-16"], "with its start has 17 latents: expected a multiple of 4, add 3 or remove 1"),
        (["--latents", "18"], "has 18 latents"),
        (["--mix", "fly=1"], "there is no motion 'fly'"),
        (["--move", "0"], "move is 0.0: expected a number above 0"),
        (["--turn", "nan"], "turn is nan"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(words, sentence, tmp_path, capsys):
    assert cli.main(["trajectories", "--out", str(tmp_path / "poses"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "poses").exists()


def test_files_that_are_there_are_kept(tmp_path, capsys):
    (tmp_path / "00001.json").write_text("mine")
    assert cli.main(["trajectories", "--count", "3", "--out", str(tmp_path)]) == 2
    assert "00001.json already exists" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["00001.json"]


def test_what_could_not_be_finished_leaves_nothing(tmp_path, capsys, monkeypatch):
    written = []

    def full(actions, file):
        if written:
            raise OSError(28, "No space left on device", str(file))
        written.append(file)
        write_poses(actions, file)

    monkeypatch.setattr("worldcompass.worlds.worldplay.pose_files.write_poses", full)
    assert cli.main(["trajectories", "--count", "2", "--latents", "4", "--out", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert written and not list(tmp_path.iterdir())


def test_an_out_that_is_a_file_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["trajectories", "--out", str(tmp_path / "file")]) == 2
    said = capsys.readouterr().err
    assert "expected a writable folder, choose another --out" in said and said.count("\n") == 1


def test_any_space_of_controls_has_a_mix_of_its_ways_alone_and_in_pairs():
    (_, alone), (_, together) = mix_of(GRIPPER)
    assert [GRIPPER.words(c) for c in alone[:3]] == [("pull",), ("reach",), ("left",)] and len(alone) == 8
    assert {len(GRIPPER.words(c)) for c in together} == {2} and len(together) == 24
    assert mix_of(CAMERAS) == METHOD_MIX and len(mix_of(Controls((button("jump"),)))) == 1
    walk = random_composites(np.random.default_rng(0), 50, mix_of(GRIPPER))
    GRIPPER.check(GRIPPER.commanded(walk))
    assert {GRIPPER.kind(int(c)) for c in walk[1:]} == {"basic", "combined"}


PATH = "w-16, right-8, w+left-8"  # 33 poses, as many as the official samples hold
TO_OPENGL = torch.diag(torch.tensor([1.0, -1, -1, 1]))  # y up, z backward


@pytest.mark.parametrize(
    ("convention", "printed"),
    [
        (lambda pose: pose, PATH),
        (lambda pose: (1000 * pose).round() / 1000, PATH),  # of three digits
        (torch.linalg.inv, "s-16, d+left-8, s+a+right-8"),  # world to camera
        (lambda pose: TO_OPENGL @ pose @ TO_OPENGL, "s-16, left-8, s+right-8"),  # OpenGL's world and camera
        (lambda pose: pose @ TO_OPENGL, "s-16, left-8, s+right-8"),  # OpenGL's camera alone
    ],
)
def test_the_keys_that_a_pose_file_means_are_printed(convention, printed, tmp_path, capsys):
    """A file of another convention is rigid too, so only its user can tell that it means something else."""
    space = CameraActions(MOTION, THRESHOLDS)
    moves = space.along(PATH).cameras
    poses = torch.stack([convention(pose) for pose in moves.world_from_camera_K44])
    write_poses(replace(moves, world_from_camera_K44=poses), tmp_path / "poses.json")
    assert cli.main(["trajectories", "--read", str(tmp_path / "poses.json")]) == 0
    said = capsys.readouterr()
    assert said.out == printed + "\n"
    assert "camera-to-world poses in OpenCV axes (x right, y down, z forward)" in said.err
