"""What moved cameras see of pictures with depth: colour, nearness, and where a point is really seen.

Points are drawn forward, the nearest in front. That says about how near each pixel of the new view is. Then each
pixel looks back for its own point in the old picture: if the point found there is as near as expected, it is seen.
Conventions are those of ``reprojection``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from worldcompass.worlds.doom.network.reprojection import fill, opposite, project, sample

POINTS = 2  # per pixel and direction that are drawn forward, so that a view from twice as near has no cracks
LOOKS_BACK = 2  # times that a pixel looks for its point
EDGE = 0.15  # bend of nearness, as a share of it, from which on neighbours are two things; planes have none
AGREEING = 0.06  # difference of log nearness at which a point is still the expected one, by half
FILLS = 2  # pixels around a gap from which it is filled with what is farthest


class View(NamedTuple):
    """What N cameras see of one picture."""

    picture: Tensor
    """(B, N, 3, h, w); what was hidden shows what lies beside it."""
    nearness: Tensor
    """(B, N, h, w)"""
    seen: Tensor
    """(B, N, h, w): 0 to 1, how surely a pixel shows a point of the old picture."""


def view_from(picture_B3hw: Tensor, nearness_Bhw: Tensor, motion_BN4: Tensor, pitch_B: Tensor) -> View:
    """What N moved cameras see.

    Args:
        picture_B3hw: the old picture.
        nearness_Bhw: of its pixels.
        motion_BN4: from its camera to the others, nominal units.
        pitch_B: of its camera, nominal units.
    """
    count = motion_BN4.shape[1]
    near = _filled(_drawn(nearness_Bhw, motion_BN4, pitch_B)).flatten(0, 1)
    back = opposite(motion_BN4).flatten(0, 1)[:, None]
    pitch = (pitch_B[:, None] + motion_BN4[..., 3]).flatten()
    old = torch.stack([nearness_Bhw, _edges(nearness_Bhw)], 1).repeat_interleave(count, 0)
    for _ in range(LOOKS_BACK):
        found, expected, place, inside = _looked_back(near, back, pitch, old)
        # How near the found point is from here: as much nearer than expected here as it is there.
        near = torch.where(inside, near * found / expected, near)
    found, expected, place, inside = _looked_back(near, back, pitch, old)
    error = (found / expected).log() / AGREEING
    seen = torch.where(inside, 1 / (1 + error.square().square()), torch.zeros_like(error))
    shape = (len(picture_B3hw), count)
    shown = sample(picture_B3hw, place.unflatten(0, shape), "bicubic")
    return View(shown, near.unflatten(0, shape), seen.unflatten(0, shape))


def _drawn(nearness_Bhw: Tensor, motion_BN4: Tensor, pitch_B: Tensor) -> Tensor:
    """Nearness of the nearest point drawn into each pixel, 0 where there is none; (B, N, h, w)."""
    rows, columns = nearness_Bhw.shape[-2:]
    fine = nearness_Bhw.repeat_interleave(POINTS, 1).repeat_interleave(POINTS, 2)
    points = project(fine, motion_BN4, pitch_B)
    column = ((points.place[..., 0] + 1) / 2 * columns).floor()
    row = ((points.place[..., 1] + 1) / 2 * rows).floor()
    there = points.ahead & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    cell = (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)).long().flatten(2)
    near = (points.nearness * there).flatten(2)
    empty = near.new_zeros(*near.shape[:2], rows * columns)
    return empty.scatter_reduce(2, cell, near, "amax").unflatten(-1, (rows, columns))


def _filled(near_BNhw: Tensor) -> Tensor:
    """Small gaps take the farthest point around them, as what appears behind an edge is behind; the rest a mean."""
    far = torch.where(near_BNhw > 0, near_BNhw.clamp_min(1e-4).reciprocal(), 0.0)
    for _ in range(FILLS):
        far = torch.where(far == 0, max_pool2d(far, 3, 1, 1), far)
    known = (far > 0).to(far)
    inner = torch.where(far > 0, far.clamp_min(1e-4).reciprocal(), 0.0)
    return fill(inner, known)


def _edges(nearness_Bhw: Tensor) -> Tensor:
    """1 at pixels next to an edge of a thing, 0 inside of planes."""
    bends = []
    for axis in (-1, -2):
        bend = nearness_Bhw.diff(n=2, dim=axis).abs()
        ends = bend.narrow(axis, 0, 1) * 0
        bends.append(torch.cat([ends, bend, ends], axis))
    return (torch.maximum(*bends) > EDGE * nearness_Bhw).to(nearness_Bhw)


def _looked_back(
    near_Rhw: Tensor, back_R14: Tensor, pitch_R: Tensor, old_R2hw: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What R views find of their points in the old picture, of which they are given nearness and edges.

    Returns:
        Its nearness where a point should lie, and the one that the point should have, (R, h, w) each; that place
        (R, h, w, 2); and whether it is in the old picture.
    """
    points = project(near_Rhw, back_R14, pitch_R)
    place = points.place[:, 0]
    smooth, sharp = (
        grid_sample(old_R2hw, place, mode=mode, padding_mode="border", align_corners=False)
        for mode in ("bilinear", "nearest")
    )
    found = torch.where(sharp[:, 1] > 0, sharp[:, 0], smooth[:, 0])
    inside = points.ahead[:, 0] & (place.abs() < 1).all(-1)
    return found, points.nearness[:, 0], place, inside
