"""Views from elsewhere: against poses and projection, against known motions, and against the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from camera_paths import parse_path
from torch.nn.functional import interpolate

from worldcompass.geometry import label_from_motion, level_motion, rotation_from_angles
from worldcompass.worlds.doom.engine import collect
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT, MOTION, NEARNESS_SHAPE, NOMINAL
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.network.autoencoder import DoomLook, between_looks
from worldcompass.worlds.doom.network.reprojection import (
    PAIRS_AT_ONCE,
    measured_motion,
    nominal_motions,
    opposite,
    part_of,
    project,
    sample,
    views,
)
from worldcompass.worlds.doom.world import SPEC, carried_along, load_doom_world
from worldcompass.worlds.small.pretraining.pictures import to_unit

ROOM_WIDTH, ROOM_HEIGHT = 96, 48


def wall(count: int) -> torch.Tensor:
    """Random pictures (B, 3, 48, 96) with structure at several scales."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        interpolate(
            torch.rand(count, 3, *size, generator=generator), (ROOM_HEIGHT, ROOM_WIDTH), mode="bilinear"
        )
        for size in ((6, 12), (24, 48))
    ]
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize("index, part", [(0, 1.0), (1, -0.5), (2, 1.0), (3, 0.5)])
def test_points_are_seen_where_a_moving_pinhole_camera_sees_them(index, part):
    """Points of a wall at one depth, before and after one kind of motion, against poses and projection."""
    distance, pitch_before = 200.0, 2.0
    motion = torch.zeros(1, 1, 4)
    motion[..., index] = part
    nearness = torch.full((1, 12, 16), MOTION.move / distance)
    found = project(nearness, motion, torch.tensor([pitch_before])).place[0, 0]
    y, x = torch.meshgrid((torch.arange(12) + 0.5) / 12, (torch.arange(16) + 0.5) / 16, indexing="ij")
    before, after = (
        math.tan(math.radians(MOTION.pitch_deg * p)) for p in (pitch_before, pitch_before + motion[0, 0, 3])
    )
    # The engine shears for pitch: a level camera, and a picture that is moved as a whole.
    rays = torch.stack([(x - 0.5) / 0.5, (y - 0.5) * 1.5 - before, torch.ones(12, 16)], -1)
    right, forward, yaw, _ = motion[0, 0].tolist()
    rotation = rotation_from_angles(torch.tensor(yaw * MOTION.yaw_deg), torch.tensor(0.0))
    seen = (distance * rays - MOTION.move * torch.tensor([right, 0.0, forward])) @ rotation
    column = 0.5 * seen[..., 0] / seen[..., 2] + 0.5
    row = (seen[..., 1] / seen[..., 2] + after) / 1.5 + 0.5
    torch.testing.assert_close(found, 2 * torch.stack([column, row], -1) - 1, atol=1e-4, rtol=1e-4)


def test_parts_of_a_motion_join_to_the_whole_and_twice_back_is_there():
    motion = torch.tensor([[0.6, -0.7, 1.3, 0.4]])
    first, rest = part_of(motion, 0.25)
    angle = math.radians(MOTION.yaw_deg) * first[..., 2]
    # The rest is told in the frame of the camera that has turned by the first part.
    east = first[..., 0] + angle.cos() * rest[..., 0] + angle.sin() * rest[..., 1]
    north = first[..., 1] - angle.sin() * rest[..., 0] + angle.cos() * rest[..., 1]
    joined = torch.stack([east, north, *(first + rest)[..., 2:].unbind(-1)], -1)
    torch.testing.assert_close(joined, motion)
    torch.testing.assert_close(opposite(opposite(motion)), motion)


def test_a_view_from_the_same_place_is_the_same_picture():
    picture = wall(2)[..., :64]
    shown, seen = views(picture, torch.full((2, 24, 32), 0.1), torch.zeros(2, 1, 4), torch.zeros(2))
    torch.testing.assert_close(shown[:, 0], picture, atol=1e-3, rtol=0)
    assert seen.min() > 0.99


def test_nominal_motions_read_as_their_actions():
    motion = nominal_motions() * torch.tensor(NOMINAL)
    assert label_from_motion(motion, SPEC.actions.thresholds).tolist() == list(range(81))


def test_a_known_motion_is_measured_and_puts_the_frames_between_in_their_places():
    """A wall that a strafe moves by 4 pixels: frames between are far nearer than a blend."""
    wide = wall(4)
    truth = torch.stack([wide[..., 10 + shift : 74 + shift] for shift in range(5)], 1)
    ends = truth[:, ::4]
    nearness, pitch = torch.full((4, 2, 24, 32), 4 / (64 * 0.5)), torch.zeros(4, 2)
    frames, motion = between_looks(DoomLook(ends, nearness, pitch))
    torch.testing.assert_close(motion[:, 0], torch.tensor([1.0, 0, 0, 0]).expand(4, -1), atol=0.05, rtol=0)
    blend = torch.lerp(ends[:, :1], ends[:, 1:], torch.arange(1, 4).view(1, 3, 1, 1, 1) / 4)
    error, error_of_blend = ((x - truth[:, 1:4]).square().mean() for x in (frames[:, 0], blend))
    assert error < 0.1 * error_of_blend


def test_the_engines_depth_and_motion_explain_its_frames():
    """Depth in map units, pitch and motion agree with the engine: warped frames, and motions read from frames."""
    path = parse_path("w-2, right-2, d+up-2, w+left-3, s-2, a+right-2")
    with Engine(find_map("my_way_home"), depth=True) as engine:
        steps = [engine.reset(3), *(engine.act(int(action)) for action in path[1:])]
    assert all(step is not None for step in steps)
    frames = to_unit(np.stack([step.frames_Fhw3[-1] for step in steps]))
    cameras = np.stack([step.cameras_F5[-1] for step in steps])
    near = torch.from_numpy(np.stack([collect.nearness(step) for step in steps])).float()
    pitch = torch.from_numpy(cameras[:, 4]) / MOTION.pitch_deg
    poses = collect.poses_from_cameras(cameras)
    true = level_motion(poses[:-1], poses[1:]) / torch.tensor(NOMINAL)
    shown, seen = views(frames[:-1], near[:-1], true[:, None], pitch[:-1])
    errors = [((x - frames[1:]).square().mean(1) * seen[:, 0, 0]).sum() for x in (shown[:, 0], frames[:-1])]
    assert errors[0] < 0.25 * errors[1]
    pairs = [torch.stack([x[:-1], x[1:]], 1) for x in (frames, near, pitch)]
    read = label_from_motion(measured_motion(*pairs) * torch.tensor(NOMINAL), SPEC.actions.thresholds)
    truth = collect.true_labels(np.repeat(cameras, FRAMES_PER_LATENT, 0)[FRAMES_PER_LATENT - 1 :])[1:]
    assert (read == truth).float().mean() > 0.9


def test_many_pairs_are_measured_piece_by_piece_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    count = PAIRS_AT_ONCE + 3
    pictures = torch.rand(count, 2, 3, *SPEC.frame_size, generator=generator)
    near = torch.rand(count, 2, *NEARNESS_SHAPE, generator=generator) / 2 + 0.05
    pitch = torch.randn(count, 2, generator=generator) / 3
    alone = [
        measured_motion(*one) for one in zip(*(x.split(1) for x in (pictures, near, pitch)), strict=True)
    ]
    torch.testing.assert_close(measured_motion(pictures, near, pitch), torch.cat(alone), atol=1e-6, rtol=0)


def test_carrying_a_picture_along_keeps_its_edges():
    """Eight small turns there and back: resampling by cubes keeps more of the edges than by straight lines."""
    picture, near, pitch = wall(1), torch.full((1, 24, 48), 0.01), torch.zeros(1)
    way = torch.zeros(1, 1, 4)
    edges = {}
    for mode in ("bicubic", "bilinear"):
        carried = picture
        for turn in (0.13, -0.13) * 4:
            way[..., 2] = turn
            if mode == "bicubic":
                carried = views(carried, near, way, pitch)[0][:, 0]
            else:
                place = project(interpolate(near[:, None], (48, 96))[:, 0], opposite(way), pitch).place
                carried = sample(carried, place)[:, 0]
        edges[mode] = (carried.diff(dim=-1).abs().mean() / picture.diff(dim=-1).abs().mean()).item()
    assert edges["bilinear"] < 0.85 < 0.9 < edges["bicubic"] < 1.1


def test_an_older_view_shows_what_the_last_one_does_not():
    """Turned right and back to the left: what comes into the picture again was seen, and looks as it did."""
    path = parse_path("right-3, left-4")
    with Engine(find_map("my_way_home")) as engine:
        steps = [engine.reset(3), *(engine.act(int(action)) for action in path[1:])]
    frames = to_unit(np.stack([step.frames_Fhw3[-1] for step in steps]))
    poses = collect.poses_from_cameras(np.stack([step.cameras_F5[-1] for step in steps]))[None]
    world = load_doom_world()
    with torch.no_grad():
        latents = world.autoencoder.encode(frames)
        look = world.autoencoder.look(latents[3:4])
        older = latents[:3].transpose(0, 1)[None], poses[:, :3]
        views_of = [
            carried_along(world.autoencoder, look, poses[:, 3], past, poses[:, 4:]) for past in (None, older)
        ]
    share, share_with_older = (v[0, -1].mean((-2, -1)) for v in views_of)
    error, error_with_older = ((v[0, :-1].transpose(0, 1) - latents[4:]).square().mean() for v in views_of)
    assert (share_with_older >= share).all() and share_with_older[2] > 0.95 and share[2] < 0.8
    assert error_with_older < 0.6 * error
