"""Where points of a picture with depth are seen after a known motion."""

from __future__ import annotations

import torch

from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, MOTION
from worldcompass.worlds.doom.rooms.geometry import view_from

SIZE = (FRAME_HEIGHT, FRAME_WIDTH)
INNER = (..., slice(4, -4), slice(4, -4))
PITCH = torch.zeros(1)


def motion(right: float = 0, forward: float = 0, yaw: float = 0, pitch: float = 0) -> torch.Tensor:
    """One motion of one camera, nominal units."""
    return torch.tensor([[[right, forward, yaw, pitch]]])


def test_a_wall_comes_nearer_as_the_camera_walks_to_it():
    """From five walks away to four; its middle half fills five eighths of the picture."""
    picture = torch.zeros(1, 3, *SIZE)
    picture[..., 12:36, 16:48] = 1
    view = view_from(picture, torch.full((1, *SIZE), 0.2), motion(forward=1), PITCH)
    torch.testing.assert_close(
        view.nearness[INNER], torch.full_like(view.nearness[INNER], 0.25), rtol=0.01, atol=0
    )
    assert view.seen[INNER].min() > 0.9
    assert abs(view.picture.mean() - 25 / 64) < 0.02


def test_a_camera_that_steps_aside_sees_behind_a_pillar_what_it_never_saw():
    near = torch.full((1, *SIZE), 0.1)
    near[..., 24:32] = 0.4  # the pillar, from column 24 to 31
    picture = (near[:, None] > 0.2).float().expand(-1, 3, -1, -1)
    view = view_from(picture, near, motion(right=1), PITCH)
    row = view.nearness[0, 0, 24]
    pillar = (row > 0.3).nonzero().flatten().tolist()
    # It shifts by half of the width times its nearness, the wall behind it by a quarter of that.
    assert pillar == list(range(11, 19))
    gap = view.seen[0, 0, 24] < 0.5
    assert gap[21:29].all() and not gap[12:18].any() and not gap[30:58].any() and gap[61:].all()
    assert (row[21:29] - 0.1).abs().max() < 0.01  # what appears is as far as the wall


def test_there_and_back_shows_the_picture_again():
    """A slanted floor: nearness grows with the row below the middle."""
    rows = ((torch.arange(SIZE[0]) + 0.5) / SIZE[0] - 0.5).abs().clamp_min(0.05)
    near = (0.6 * rows)[None, :, None].expand(1, *SIZE)
    smooth = torch.rand(1, 3, 6, 8)
    picture = torch.nn.functional.interpolate(smooth, size=SIZE, mode="bicubic")
    there = motion(right=0.4, forward=-0.5, yaw=5 / MOTION.yaw_deg, pitch=1)
    view = view_from(picture, near, there, PITCH)
    angle = torch.deg2rad(torch.tensor(5.0))
    back = motion(
        float(-angle.cos() * 0.4 - angle.sin() * 0.5),
        float(-angle.sin() * 0.4 + angle.cos() * 0.5),
        -5 / MOTION.yaw_deg,
        -1,
    )
    again = view_from(view.picture[:, 0], view.nearness[:, 0], back, PITCH + 1)
    both = again.seen[0, 0] > 0.5
    assert both[10:-10, 10:-10].float().mean() > 0.8
    error = (again.picture[0, 0] - picture[0]).abs().mean(0)
    assert error[both].mean() < 0.03
    assert (again.nearness[0, 0].log() - near[0].log()).abs()[both].mean() < 0.05


def test_many_pictures_and_motions_at_once_are_as_one_by_one():
    torch.manual_seed(0)
    pictures, near = torch.rand(2, 3, *SIZE), 0.05 + 0.3 * torch.rand(2, *SIZE)
    motions, pitch = torch.randn(2, 3, 4), torch.randn(2)
    together = view_from(pictures, near, motions, pitch)
    for i in range(2):
        for k in range(3):
            alone = view_from(
                pictures[i : i + 1], near[i : i + 1], motions[i : i + 1, k : k + 1], pitch[i : i + 1]
            )
            for whole, part in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[i, k], part[0, 0], atol=1e-5, rtol=1e-5)
