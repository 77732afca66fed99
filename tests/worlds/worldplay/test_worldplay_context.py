"""WorldPlay's poses, pose files, labels and choice of memory, without outside numbers."""

import json
from functools import cache
from itertools import pairwise

import pytest
import torch
from camera_paths import parse_path

from worldcompass import cli
from worldcompass.errors import UserError
from worldcompass.geometry import (
    LabelThresholds,
    label_from_signs,
    motion_signs,
    rigid_inverse,
    rotation_from_angles,
)
from worldcompass.worlds.open.poses import (
    INTRINSICS,
    MOTION,
    THRESHOLDS,
    TRAINING_MOTION,
    WorldPlayActions,
    camera_path,
    commanded,
    labels_from_cameras,
)
from worldcompass.worlds.open.prope import cameras
from worldcompass.worlds.worldplay.context import (
    MEMORY_5B,
    MEMORY_8B,
    keep_in_view,
    overlap,
    points_in_view,
    select_memory,
    whole_timesteps,
)
from worldcompass.worlds.worldplay.pose_files import read_pose_list, read_poses, write_poses


@cache
def points():
    return points_in_view(torch.Generator().manual_seed(0), num_points=20_000)


@pytest.mark.parametrize("motion", [MOTION, TRAINING_MOTION])
def test_labels_of_a_commanded_path_are_its_commands(motion):
    labels = torch.arange(81)
    assert torch.equal(labels_from_cameras(camera_path(labels, motion)), labels)
    assert torch.equal(labels_from_cameras(camera_path(labels, motion).float()), labels)


def test_a_diagonal_moves_the_whole_length_along_both_axes():
    """As the released trajectories do, whose generator adds the axes: 0.1 right and 0.1 forward."""
    path = camera_path(torch.arange(81), TRAINING_MOTION)
    signs = motion_signs(torch.arange(81))
    turns = rotation_from_angles(signs[:, 2] * 2.0, signs[:, 3] * 2.0).double()
    step = (rigid_inverse(path[:-1]) @ path[1:])[:, :3, 3, None]
    moved = (turns[1:].mT @ step)[..., 0]  # in the camera's frame after its turn
    expected = 0.1 * torch.stack([signs[1:, 0], torch.zeros(80), signs[1:, 1]], -1).double()
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


def test_the_worlds_own_paths_are_those_of_its_pose_strings():
    """Also for several walks at once, and when the last action is held."""
    space = WorldPlayActions(MOTION, THRESHOLDS)
    labels = parse_path("w-2, up-1, right+w-1, d+w-3")
    torch.testing.assert_close(
        space.commanded(labels[None]).world_from_camera_K44[0], camera_path(labels).float()
    )
    held = space.hold_last(space.commanded(labels[:6]), 2)
    torch.testing.assert_close(held.world_from_camera_K44, camera_path(labels).float(), atol=1e-6, rtol=0)
    assert space.commanded(labels).intrinsics_K4[0].tolist() == pytest.approx(INTRINSICS)


def test_a_first_pose_has_action_0_and_small_motion_is_none():
    path = camera_path(parse_path("w-3"))
    assert labels_from_cameras(path, LabelThresholds(MOTION.move * 1.01, 1.0, 1.0)).tolist() == [0, 0, 0, 0]
    assert labels_from_cameras(path[:1]).tolist() == [0]


def test_third_person_labels_no_translation_while_the_camera_turns():
    labels = parse_path("w-1, w+right-1, left-1")
    found = labels_from_cameras(camera_path(labels), third_person=True)
    turning = label_from_signs(0, 0, 1, 0)
    assert found.tolist() == [0, int(labels[1]), turning, int(labels[3])]


def test_a_quarter_turn_in_one_step_is_no_pitch():
    quarter = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    poses = torch.stack([torch.eye(4, dtype=torch.float64), quarter])
    assert labels_from_cameras(poses).tolist() == [0, label_from_signs(0, 0, 1, 0)]


def test_pose_files_come_back_as_they_were_written(tmp_path):
    actions = commanded(parse_path("w-3, w+right-4, up-4"))
    write_poses(actions, tmp_path / "deep" / "path.json")
    found = read_poses(tmp_path / "deep" / "path.json")
    assert torch.equal(found.labels_K, actions.labels_K)
    assert torch.equal(found.world_from_camera_K44, actions.world_from_camera_K44)
    torch.testing.assert_close(found.intrinsics_K4, torch.tensor(INTRINSICS).expand(12, 4))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["path.json"]


def test_official_samples_of_33_poses_and_lists_of_trajectories_are_read(tmp_path):
    """As in the official assets, and as the released ``prepare_custom_action.py`` writes them."""
    actions = commanded(parse_path("w-16, right-16"))
    assert len(actions) == 33
    write_poses(actions, tmp_path / "one.json")
    found = read_poses(tmp_path / "one.json")
    assert torch.equal(found.labels_K, actions.labels_K)
    write_poses(actions.latents(0, 1), tmp_path / "start.json")
    assert len(read_poses(tmp_path / "start.json")) == 1
    raw = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "many.json").write_text(json.dumps([raw, raw, raw]))
    assert [len(part) for part in read_pose_list(tmp_path / "many.json")] == [33, 33, 33]
    assert len(read_pose_list(tmp_path / "many.json", 2)) == 2
    assert len(read_pose_list(tmp_path / "one.json", 2)) == 1
    with pytest.raises(UserError, match="expected an object with keys"):
        read_poses(tmp_path / "many.json")


def scaled(raw):
    raw["2"]["extrinsic"][0][0] *= 1.1


def mirrored(raw):
    for row in raw["1"]["extrinsic"][:3]:
        row[0] *= -1


def without_camera(raw):
    del raw["3"]["K"]


def renamed(raw):
    raw["four"] = raw.pop("3")


def behind(raw):
    raw["0"]["K"][0][0] = -1.0


def ragged(raw):
    raw["0"]["extrinsic"] = raw["0"]["extrinsic"][:3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (scaled, "pose 2 is not rigid"),
        (mirrored, "pose 1 is not rigid"),
        (without_camera, "pose 3 has no K of 3x3 numbers"),
        (renamed, "expected an object with keys"),
        (behind, "K of pose 0 needs a focal length"),
        (ragged, "extrinsic of pose 0 is not 4x4"),
    ],
)
def test_bad_pose_files_are_refused_in_one_sentence(tmp_path, damage, message):
    file = tmp_path / "path.json"
    write_poses(commanded(parse_path("w-3")), file)
    raw = json.loads(file.read_text())
    damage(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=message) as refused:
        read_poses(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [None, "{", "[" * 100_000, '{"0": ' * 100_000], ids=["", "cut", "deep", "deeper"]
)
def test_unreadable_pose_files_are_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "path.json").write_text(text)
    with pytest.raises(UserError, match="not a readable pose file"):
        read_poses(tmp_path / "path.json")


def test_a_file_without_a_trajectory_is_refused(tmp_path, capsys):
    (tmp_path / "path.json").write_text("[]")
    assert cli.main(["trajectories", "--read", str(tmp_path / "path.json")]) == 2
    assert "holds an empty list: expected trajectories" in capsys.readouterr().err


def test_a_camera_sees_all_that_it_sees_itself_and_nothing_behind_it():
    path = camera_path(parse_path("right-60"))  # 3 degrees each: 60 of them look backwards
    seen = overlap(path[0], path, points()).tolist()
    assert seen[0] == 1
    assert seen[60] == 0
    assert all(a >= b for a, b in pairwise(seen))


@pytest.mark.golden
def test_overlap_equals_its_naive_twin():
    """The official definition, written out for single points."""
    path = camera_path(parse_path("w+right-9, up-3, s-5, d+left-6"))
    every, seen = torch.randn(300, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4, []
    query = path[-1]

    def degrees(v):
        x, y, z = v.tolist()
        flat = torch.hypot(torch.tensor(x), torch.tensor(z))
        return (
            torch.rad2deg(torch.atan2(torch.tensor(x), torch.tensor(z))),
            torch.rad2deg(torch.atan2(torch.tensor(y), flat)),
        )

    def sees(point, centre, forward):
        angles = zip(degrees(point - centre), degrees(forward), (30.0, 17.5), strict=True)
        return all(abs((float(a - b) + 180) % 360 - 180) < limit for a, b, limit in angles)

    origin, ahead = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64)
    in_query = [p for p in every if sees(p, origin, ahead)]
    for pose in path:
        relative = torch.linalg.inv(query) @ pose
        centre, forward = relative[:3, 3], relative[:3, 2]
        both = [p for p in in_query if sees(p, centre, forward) and (p - centre).norm() < MEMORY_8B.radius]
        seen.append(len(both) / len(in_query))
    ours = overlap(query, path, keep_in_view(every))
    torch.testing.assert_close(ours, torch.tensor(seen), atol=1e-6, rtol=0)


@pytest.mark.golden
def test_labels_equal_their_naive_twin():
    """The official rule, written out for single steps: angles to the axes, then Euler angles."""
    generator = torch.Generator().manual_seed(3)
    turns = rotation_from_angles(*(6 * torch.randn(2, 200, generator=generator, dtype=torch.float64)))
    steps = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    poses, expected = [torch.eye(4, dtype=torch.float64)], [0]
    table = {
        (0, 0, 0, 0): 0, (1, 0, 0, 0): 1, (0, 1, 0, 0): 2, (0, 0, 1, 0): 3, (0, 0, 0, 1): 4, (1, 0, 1, 0): 5,
        (1, 0, 0, 1): 6, (0, 1, 1, 0): 7, (0, 1, 0, 1): 8,
    }  # fmt: skip
    for i, (turn, step) in enumerate(zip(turns, steps, strict=True)):
        turn, step = (torch.eye(3).double() if i % 5 == 0 else turn), (step * 0 if i % 7 == 0 else step)
        motion = torch.eye(4, dtype=torch.float64)
        motion[:3, :3], motion[:3, 3] = turn, step
        poses.append(poses[-1] @ motion)
        x, _, z = (step / step.norm().clamp_min(1e-12)).clamp(-1, 1).acos().rad2deg().tolist()
        moved = bool(step.norm() > 1e-4)
        move = (moved and z < 60, moved and z > 120, moved and x < 60, moved and x > 120)
        pitch = torch.atan2(turn[2, 1], turn[2, 2]).rad2deg()
        yaw = torch.atan2(-turn[2, 0], torch.hypot(turn[0, 0], turn[1, 0])).rad2deg()
        turned = (bool(yaw > 0.05), bool(yaw < -0.05), bool(pitch > 0.05), bool(pitch < -0.05))
        expected.append(9 * table[tuple(map(int, move))] + table[tuple(map(int, turned))])
    found = labels_from_cameras(torch.stack(poses)).tolist()
    assert found == expected and len(set(found)) > 40


@pytest.mark.golden
@pytest.mark.parametrize("rule", [MEMORY_8B, MEMORY_5B])
def test_the_choice_of_memory_equals_its_naive_twin(rule):
    generator = torch.Generator().manual_seed(5)
    path = camera_path(torch.randint(0, 81, (48,), generator=generator))
    for start in range(4, 48, 4):
        expected = list(range(start))
        if start > rule.num_latents:
            scores = {}
            for s in range(rule.num_first, start - 12, 4):
                pairs = [(q, h) for q in range(start, start + 4) for h in (s, s + 2)]
                away = [1 - float(overlap(path[q], path[h : h + 1], points(), rule)) for q, h in pairs]
                scores[s] = sum(away) / len(away)
            s = min(scores, key=scores.__getitem__)
            chosen = {*range(rule.num_first), *range(s, s + 4), *range(start - 12, start)}
            expected = sorted(chosen)
        assert select_memory(path, start, points(), rule) == expected, start


def test_8b_memory_is_all_up_to_20_then_first_recent_and_best_segment():
    """5 chunks away, then back: the retrieved segment is the one with a view of this place."""
    path = camera_path(parse_path("right-19, left-20"))
    assert select_memory(path, 20, points(), MEMORY_8B) == list(range(20))
    chosen = select_memory(path, 36, points(), MEMORY_8B)
    assert chosen == [0, 1, 2, 3, 4, 5, 6, 7, *range(24, 36)]
    assert len(select_memory(path, 24, points(), MEMORY_8B)) == 20


def test_5b_memory_is_all_up_to_16_then_recent_and_the_best_segment():
    path = camera_path(parse_path("right-19, left-20"))
    assert select_memory(path, 16, points(), MEMORY_5B) == list(range(16))
    assert select_memory(path, 36, points(), MEMORY_5B) == [0, 1, 2, 3, *range(24, 36)]


def test_the_earliest_of_equal_stretches_is_chosen():
    path = camera_path(torch.zeros(40, dtype=torch.long))
    assert select_memory(path, 36, points(), MEMORY_8B)[4:8] == [4, 5, 6, 7]


def test_cameras_are_exact_under_autocast():
    """Matrix products of poses would otherwise be rounded to bfloat16."""
    path = camera_path(parse_path("w+right-9, up-10"), TRAINING_MOTION).float()[None]
    path[..., 2, 3] += 20
    intrinsics = torch.tensor(INTRINSICS).expand(1, 20, 4)
    x = torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(0))

    def found():
        ours = cameras(path, intrinsics)
        return [ours.queries(x), ours.keys(x), ours.outputs(x), overlap(path[0, 5], path[0], points())]

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = found()
    for ours, theirs in zip(rounded, expected, strict=True):
        assert torch.equal(ours, theirs)
    focal = torch.tensor([*INTRINSICS[:2], 1, 1], dtype=torch.float64)
    exact = focal[:, None] * torch.linalg.inv(path.double())
    torch.testing.assert_close(
        cameras(path, intrinsics).image_from_world_BK44.double(), exact, atol=1e-5, rtol=0
    )


def test_whole_timesteps_are_cut_not_rounded():
    assert whole_timesteps(torch.tensor([1.0, 0.8839, 0.0009])).tolist() == [1000, 883, 0]
