"""Camera paths: geometry against known transforms, odometry against a drawn world, what critics read from paths."""

import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
import torch
from camera_paths import commanded, parse_path
from drawn_room import CAMERA, drawn_video

from worldcompass import cli
from worldcompass.commands._catalogue import ENTRIES
from worldcompass.geometry import (
    LabelThresholds,
    Motion,
    camera_motion,
    label_from_signs,
    nominal_poses,
    pose,
    relative_pose,
    rotation_angle,
    rotation_from_angles,
    umeyama,
)
from worldcompass.rewards.abstain import mean_over_trusted
from worldcompass.rewards.actions import ActionAccuracy, exact
from worldcompass.rewards.best_of_three import BestOfThree
from worldcompass.rewards.cameras import CameraPath, Remembering, calibrated_thresholds
from worldcompass.rewards.latency import ResponseLatency
from worldcompass.rewards.odometry import Odometry, two_view
from worldcompass.rewards.pose_error import PoseError, segment_errors
from worldcompass.rewards.purity import DirectionPurity
from worldcompass.testing import check_critic, noise_group
from worldcompass.types import Group
from worldcompass.worlds.doom.rewards.cameras import path_of_level_motion

MOTION = Motion(move=1.0, yaw_deg=8.0, pitch_deg=5.0, level=False)
LIMITS = LabelThresholds(move=0.4, yaw_deg=3.0, pitch_deg=2.0)


def random_rotation(generator, count):
    axis = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    angle = 3.1 * torch.rand(count, generator=generator, dtype=torch.float64)
    zero = torch.zeros(count, dtype=torch.float64)
    x, y, z = axis.unbind(-1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(angle[:, None, None] * skew), torch.rad2deg(angle)


@pytest.mark.golden
def test_umeyama_recovers_known_transforms():
    generator = torch.Generator().manual_seed(0)
    rotation, _ = random_rotation(generator, 20)
    scale = 0.01 + 5 * torch.rand(20, generator=generator, dtype=torch.float64)
    shift = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    points = torch.randn(20, 7, 3, generator=generator, dtype=torch.float64)
    moved = scale[:, None, None] * points @ rotation.transpose(1, 2) + shift[:, None]
    found = umeyama(points, moved)
    for ours, true in zip(found, (scale, rotation, shift), strict=True):
        torch.testing.assert_close(ours, true)
    assert umeyama(torch.zeros(4, 3), torch.randn(4, 3))[0] == 0
    line = torch.linspace(0, 1, 5)[:, None] * torch.tensor([1.0, 0, 0])
    assert float(umeyama(line, -3 * line)[0]) == pytest.approx(3)  # a turned line has its length all the same


@pytest.mark.golden
def test_rotation_angle_is_the_one_that_was_turned_by():
    rotation, degrees = random_rotation(torch.Generator().manual_seed(1), 50)
    torch.testing.assert_close(rotation_angle(rotation), degrees)
    tiny = rotation_from_angles(torch.tensor(1e-3), torch.tensor(0.0))
    assert float(rotation_angle(tiny)) == pytest.approx(1e-3, rel=1e-3)


def test_relative_poses_chain_and_read_as_motion():
    poses = nominal_poses(parse_path("w-2, right-1, d+up-1, a+left-2"), MOTION)
    chain = torch.eye(4)
    for step in relative_pose(poses[:-1], poses[1:]):
        chain = chain @ step
    torch.testing.assert_close(chain, poses[-1], atol=1e-5, rtol=0)
    motion = camera_motion(poses[:-1], poses[1:])
    torch.testing.assert_close(motion[0], torch.tensor([0.0, 1, 0, 0]))
    torch.testing.assert_close(motion[2], torch.tensor([0.0, 0, 8, 0]), atol=1e-5, rtol=0)


def test_two_views_of_a_point_cloud():
    rng = np.random.default_rng(0)
    points = rng.uniform([-4, -3, 3], [4, 3, 12], (200, 3))
    for turn, shift in (((0.02, 0.12, 0.0), (0.3, 0.0, 0.4)), ((0.0, -0.1, 0.0), (-0.5, 0.1, 0.0))):
        rotation = torch.linalg.matrix_exp(
            torch.tensor([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0.0]])
        ).numpy()
        seen = points @ rotation.T + np.array(shift)
        a, b = points[:, :2] / points[:, 2:], seen[:, :2] / seen[:, 2:]
        b[:20] += rng.uniform(-0.2, 0.2, (20, 2))  # a tenth are wrong
        found = two_view(a, b + rng.normal(0, 0.1 / 160, b.shape), focal=160.0)
        apart = torch.tensor(found.rotation_33.T @ rotation)
        assert rotation_angle(apart) < 0.2
        length = np.linalg.norm(shift)
        assert found.direction_3 @ np.array(shift) / length > math.cos(math.radians(3))
        np.testing.assert_allclose(found.nearness_N[20:], length / points[20:, 2], rtol=0.2)
        assert 0.8 < found.confidence < 0.97
        alone = points @ rotation.T
        turned = two_view(a, alone[:, :2] / alone[:, 2:], focal=160.0)
        assert not turned.direction_3.any() and turned.confidence > 0.99
    assert two_view(a[:5], b[:5], 160.0).confidence == 0


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def walk():
    """A video of 2 frames a step through the drawn room, its path and its labels."""
    motion = Motion(move=0.8, yaw_deg=4.0, pitch_deg=3.0, level=False, substeps=2)
    labels = parse_path("w-2, right-1, none-1, d+left-2, s+up-1")
    halves = torch.cat([labels[:1], labels[1:].repeat_interleave(2)])
    fine = dataclasses.replace(motion, move=0.4, yaw_deg=2.0, pitch_deg=1.5, substeps=1)
    poses = nominal_poses(halves, fine)
    return drawn_video(poses), poses[::2], labels[1:]


def test_odometry_follows_a_drawn_walk(walk):
    frames, poses, labels = walk
    path = Odometry()(frames[None], CAMERA, every=2)
    turn_deg, move = segment_errors(path.world_from_camera_VS44, poses)
    assert turn_deg.max() < 0.6 and move.max() < 0.2, (turn_deg, move)
    assert path.confidence_VS.min() > 0.5
    per_view = Odometry(per_view=True)
    limits = calibrated_thresholds(
        [per_view(frames[None], CAMERA, 2)], [labels], LabelThresholds(0.4, 2.0, 1.5)
    )
    group = Group(frames[None, 1:], frames[:1], frames[0], commanded(labels, MOTION, CAMERA), 2)
    critics = (
        ActionAccuracy(per_view, limits, exact),
        DirectionPurity(per_view, limits),
        PoseError(Odometry(), dataclasses.replace(MOTION, move=0.8, yaw_deg=4.0, pitch_deg=3.0)),
    )
    values = [float(critic(group).values_G) for critic in critics]
    assert values[0] == 1 and values[1] > 0.95 and -0.1 < values[2] <= 0, values


def test_odometry_abstains_where_nothing_can_be_seen():
    frames = torch.full((1, 5, 3, 48, 64), 90, dtype=torch.uint8)
    path = Odometry()(frames, CAMERA, every=4)
    assert path.confidence_VS.tolist() == [[0.0]]
    torch.testing.assert_close(path.world_from_camera_VS44[0, 1], torch.eye(4))
    with pytest.raises(ValueError, match="1 \\+ 4 S"):
        Odometry()(frames[:, :4], CAMERA, every=4)


class Told:
    """An estimator that returns known paths with a chosen scale and confidence."""

    name = "told"

    def __init__(self, labels_GK, scale=1.0, confidence=1.0, latents_late=0):
        self.labels_GK, self.scale, self.confidence, self.late = labels_GK, scale, confidence, latents_late
        self.calls = 0

    def __call__(self, frames_VF3hw, intrinsics_4, every):
        self.calls += 1
        steps = (frames_VF3hw.shape[1] - 1) // every
        share = len(self.labels_GK[0]) / steps
        motion = Motion(self.scale * share, 8 * share, 5 * share, level=False)
        paths = []
        for video in frames_VF3hw:
            labels = self.labels_GK[int(video[-1, 0, 0, 0])].repeat_interleave(round(1 / share))
            labels = torch.cat([torch.zeros(1 + self.late, dtype=torch.long), labels])[: steps + 1]
            paths.append(nominal_poses(labels, motion))
        poses = torch.stack(paths)
        confidence = torch.as_tensor(self.confidence).float().expand(len(paths), steps)
        return CameraPath(poses, intrinsics_4.expand(*poses.shape[:2], 4), confidence)


def numbered_group(labels, count):
    """Candidates with their number in a pixel, for ``Told``."""
    group = noise_group(count)
    group.frames_GF3hw[:, -1, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)
    return dataclasses.replace(group, actions=commanded(labels, MOTION, CAMERA))


WANTED = parse_path("w-2, right-1, w+left-1")[1:]
DONE = [WANTED, parse_path("s-2, left-1, s+right-1")[1:], parse_path("w-2, none-1, w-1")[1:], WANTED * 0]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda e: ActionAccuracy(e, LIMITS, exact), [1, 0, 0.5, 0]),
        (lambda e: ActionAccuracy(e, LIMITS), [1, 0.375, 0.75, 0.375]),
        (lambda e: DirectionPurity(e, LIMITS), [1, -1, 0.625, 0]),
        (lambda e: ResponseLatency(e, LIMITS), [0, -16 / 3, -8 / 3, -16 / 3]),
        (lambda e: PoseError(e, MOTION), [0, None, None, None]),
        (lambda e: BestOfThree(e), [1, 0.375, 0.75, 0.375]),
        (lambda e: BestOfThree(e, moves=(0.2, 0.5, 0.9), turn_deg=0.8, every=4), [1, 0.375, 0.75, 0.375]),
    ],
)
def test_measures_of_known_paths(make, expected):
    group = numbered_group(WANTED, 4)
    critic = make(Told(DONE))
    scores = critic(group)
    assert scores.valid_G.all()
    for value, wanted in zip(scores.values_G.tolist(), expected, strict=True):
        if wanted is not None:
            assert value == pytest.approx(wanted, abs=5e-3)  # a step that turns ends aside of where it faced
    assert scores.values_G.argmax() == 0
    check_critic(critic, group)


def test_pose_error_ignores_scale_and_is_in_units_of_nominal_actions():
    group = numbered_group(WANTED, 4)
    small, large = (PoseError(Told(DONE, scale), MOTION)(group).values_G for scale in (0.01, 30.0))
    torch.testing.assert_close(small, large, atol=1e-4, rtol=0)
    assert small[0] == pytest.approx(0, abs=1e-4)
    assert small[3] == pytest.approx(-(3 * 1 + 2 * 1) / 4 / 2, abs=1e-4)  # all that was commanded is missing


def test_best_of_three_is_never_below_one_threshold():
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(0, 81, (4,), generator=generator) for _ in range(8)]
    group = numbered_group(WANTED, 8)
    for scale in (0.006, 0.02, 1.0):
        best = BestOfThree(Told(labels, scale), moves=(0.002, 0.005, 0.01))(group).values_G
        for move in (0.002, 0.005, 0.01):
            one = BestOfThree(Told(labels, scale), moves=(move,))(group).values_G
            exact_one = ActionAccuracy(Told(labels, scale), LabelThresholds(4 * move, 0.8, 0.8), exact)(group)
            assert (best >= one - 1e-6)[exact_one.values_G > 0].all()


def test_untrusted_steps_are_ignored_and_untrusted_candidates_abstain():
    group = numbered_group(WANTED, 2)
    wrong_once = [torch.cat([WANTED[:1] * 0, WANTED[1:]])] * 2
    confidence = torch.tensor([[0.1, 1, 1, 1], [0.1, 0.1, 0.1, 1]])
    scores = ActionAccuracy(Told(wrong_once, confidence=confidence), LIMITS, exact)(group)
    assert scores.values_G.tolist() == [1, 0] and scores.valid_G.tolist() == [True, False]
    none = mean_over_trusted(
        torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    )
    assert not none.valid_G.any()


def test_a_start_image_alone_gets_no_score():
    group = noise_group()
    start = dataclasses.replace(
        group,
        frames_GF3hw=group.frames_GF3hw[:, :1],
        past_frames_F3hw=group.past_frames_F3hw[:0],
        actions=group.actions.latents(0, 1),
    )
    told = Told(DONE)
    for critic in (ActionAccuracy(told, LIMITS), PoseError(told, MOTION), DirectionPurity(told, LIMITS),
                   ResponseLatency(told, LIMITS), BestOfThree(told)):  # fmt: skip
        assert not critic(start).valid_G.any()
    assert told.calls == 0


def test_critics_share_one_look():
    told, group = Told(DONE), numbered_group(WANTED, 4)
    shared = Remembering(told)
    ActionAccuracy(shared, LIMITS)(group)
    DirectionPurity(shared, LIMITS)(group)
    assert told.calls == 1
    ResponseLatency(shared, LIMITS)(group)  # looks frame by frame
    assert told.calls == 2
    group.frames_GF3hw[0, 3] += 1
    ResponseLatency(shared, LIMITS)(group)
    assert told.calls == 3


def test_calibration_finds_the_gap():
    labels = torch.tensor([0, 9, 9, 1, 18, 0])
    motion = torch.tensor(
        [[0.0, 0.02, 0, 0], [0, 0.5, 0, 0], [0, 0.4, 0, 0], [0.1, 0, 8, 0], [0, -0.3, 0, 0], [0] * 4]
    )
    path = CameraPath(path_of_level_motion(motion[None]), CAMERA.expand(1, 7, 4), torch.ones(1, 6))
    found = calibrated_thresholds([path], [labels], LIMITS)
    assert found.move == pytest.approx(0.2) and found.yaw_deg == LIMITS.yaw_deg
    with pytest.raises(ValueError, match="steps that move"):
        calibrated_thresholds([path], [labels * 0], LIMITS)


def test_level_motion_adds_up_to_its_path():
    labels = parse_path("w-2, right-3, w+left-2, up-1, d-1")
    level = dataclasses.replace(MOTION, level=True)
    signs = torch.stack([torch.tensor([0.0, 1, 0, 0])] * 2 + [torch.tensor([0.0, 0, 8, 0])] * 3)
    poses = path_of_level_motion(signs[None])[0]
    torch.testing.assert_close(poses, nominal_poses(labels[:6], level), atol=1e-5, rtol=0)
    assert label_from_signs(0, 1, 0, 0) == 9 and pose(torch.eye(3), torch.zeros(3)).equal(torch.eye(4))


def test_the_catalogue_names_what_exists(capsys):
    assert cli.main(["rewards", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["world"]) for row in rows] == [(e.name, e.world) for e in ENTRIES]
    assert len({entry.full_name for entry in ENTRIES}) == len(ENTRIES)
    for row in rows:
        module, attribute = row["where"].split(":")
        found = getattr(__import__(f"worldcompass.{module}", fromlist=[attribute]), attribute)
        assert found.__doc__ and (row["installed"] or row["install"])
    assert cli.main(["rewards"]) == 0
    text = capsys.readouterr().out
    assert "camera estimator:" in text and all(entry.full_name in text for entry in ENTRIES)


def test_a_name_of_several_worlds_is_described_for_each(capsys):
    assert cli.main(["rewards", "interaction"]) == 0
    text = capsys.readouterr().out
    assert "interaction (doom): " in text and "interaction (hands): " in text
