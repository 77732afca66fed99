"""What a still world looks like after the camera moved, and how the camera must have moved between two pictures.

Nearness is one nominal walk over the depth of what is seen, positive; motions are (right, forward, yaw, pitch) in
nominal units, in the frame of the camera that they start from, and a camera's own pitch is in the same units.
Looking up or down moves the picture as a whole, as in the engine's renderer. Nothing here is learned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from worldcompass.geometry import NUM_ACTIONS, level_motion, nominal_poses
from worldcompass.worlds.doom.engine.facts import INTRINSICS, MOTION, NEARNESS_SHAPE, NOMINAL

NEAREST = 0.05  # share of its depth that a point keeps at least; what is nearer lies behind the camera
IN_FRONT = 30.0  # how sharply the nearer of two points hides the other, per unit of nearness
KNOWN = 0.3  # share of a cell that points must cover to say how near it is
CONTRAST_REACH, CONTRAST_FLOOR = (
    3,
    0.02,
)  # pixels around that say what contrast is; below the floor all is flat
WORST_MATCH = 1.5  # of normalised pictures: what was hidden matches nothing and must not outvote the rest
SURENESS = 0.02  # cost between motions that are about equally likely
PAIRS_AT_ONCE = (
    8  # pairs of pictures whose trials fit into a processor's cache: four times as fast as 288 at once
)


class Seen(NamedTuple):
    """Where points of one view are seen from another camera."""

    place: Tensor
    """(..., y, x, 2): right and down, -1 to 1 inside of the picture."""
    nearness: Tensor
    """(..., y, x)"""
    ahead: Tensor
    """bool (..., y, x): not behind the camera."""


def opposite(motion: Tensor) -> Tensor:
    """The motion back, in the frame of the camera that ``motion`` led to; (..., 4)."""
    right, forward, yaw, pitch = motion.unbind(-1)
    angle = yaw * math.radians(MOTION.yaw_deg)
    return torch.stack(
        [
            angle.sin() * forward - angle.cos() * right,
            -(angle.sin() * right + angle.cos() * forward),
            -yaw,
            -pitch,
        ],
        -1,
    )


def part_of(motion: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The first ``share`` of a motion, and the rest in the frame of the camera there; (..., 4) each.

    The path is taken as straight while the camera turns evenly.
    """
    first = share * motion
    right, forward, yaw, pitch = ((1 - share) * motion).unbind(-1)
    angle = first[..., 2] * math.radians(MOTION.yaw_deg)
    there = [
        angle.cos() * right - angle.sin() * forward,
        angle.sin() * right + angle.cos() * forward,
        yaw,
        pitch,
    ]
    return first, torch.stack(there, -1)


def project(nearness_Byx: Tensor, motion_BN4: Tensor, pitch_B: Tensor) -> Seen:
    """Where each pixel's point is seen after each of N motions; shapes (B, N, y, x)."""
    place, depth = _place_and_depth(nearness_Byx, motion_BN4, pitch_B)
    return Seen(place, nearness_Byx[:, None] / depth.clamp_min(NEAREST), depth > NEAREST)


def _place_and_depth(nearness_Byx: Tensor, motion_BN4: Tensor, pitch_B: Tensor) -> tuple[Tensor, Tensor]:
    """``Seen.place`` and each point's depth in shares of what it was; (B, N, y, x, 2) and (B, N, y, x).

    What is the same for a whole column or view is put together first: there are 81 motions to a pair of pictures,
    and every pass over all their points takes as long as the next.
    """
    fx, fy, cx, cy = INTRINSICS
    rows, columns = nearness_Byx.shape[-2:]
    device = nearness_Byx.device
    y = (((torch.arange(rows, device=device) + 0.5) / rows - cy) / fy)[:, None]
    x = (((torch.arange(columns, device=device) + 0.5) / columns - cx) / fx)[None]
    right, forward, yaw, pitch = motion_BN4[..., None, None].unbind(2)
    first = pitch_B.view(-1, 1, 1, 1)
    before, after = (torch.tan(math.radians(MOTION.pitch_deg) * p) for p in (first, first + pitch))
    near, angle = nearness_Byx[:, None], yaw * math.radians(MOTION.yaw_deg)
    cos, sin = angle.cos(), angle.sin()
    # The point (x - right near, 1 - forward near), turned by the angle.
    depth = torch.addcmul(sin * x + cos, near, -(sin * right + cos * forward))
    across = torch.addcmul(2 * fx * (cos * x - sin), near, 2 * fx * (sin * forward - cos * right))
    inverse = depth.clamp_min(NEAREST).reciprocal()
    place_x = across * inverse + (2 * cx - 1)
    place_y = 2 * fy * (y - before) * inverse + (2 * fy * after + 2 * cy - 1)
    # As numbers with a real and an imaginary part they are laid side by side three times as fast as by stacking.
    return torch.view_as_real(torch.complex(place_x, place_y)), depth


def seen_nearness(nearness_Byx: Tensor, motion_BN4: Tensor, pitch_B: Tensor) -> tuple[Tensor, Tensor]:
    """Nearness of what N moved cameras see, and the share of each cell that is known; (B, N, y, x) each."""
    rows, columns = nearness_Byx.shape[-2:]
    seen = project(nearness_Byx, motion_BN4, pitch_B)
    near, ahead = seen.nearness.flatten(2), seen.ahead.flatten(2)
    x = (seen.place[..., 0].flatten(2) + 1) / 2 * columns - 0.5
    y = (seen.place[..., 1].flatten(2) + 1) / 2 * rows - 0.5
    # Nearer points hide others; the exponent is bounded so that it stays finite.
    front = torch.exp(IN_FRONT * near.clamp_max(1.2)) * ahead
    left, top = x.floor(), y.floor()
    sums = near.new_zeros(*near.shape[:2], 3, rows * columns)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
        cell = (row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)).long()
        weights = torch.stack([share * front * near, share * front, share * ahead], 2)
        sums.scatter_add_(3, cell[:, :, None].expand_as(weights), weights)
    weighed, total, covered = sums.unflatten(-1, (rows, columns)).unbind(2)
    covered = covered.clamp_max(1)
    return fill(weighed / total.clamp_min(1e-6), covered), covered


def fill(nearness: Tensor, covered: Tensor) -> Tensor:
    """What is not known takes the mean of what is known around it, as near by as there is any."""
    known = (covered > KNOWN).float()
    filled, sure = nearness * known, known
    for reach in (1, 3, 7, 15):
        mean, share = (_smooth(v, reach) for v in (nearness * known, known))
        new = (sure == 0) & (share > 1e-3)
        filled = torch.where(new, mean / share.clamp_min(1e-6), filled)
        sure = torch.maximum(sure, new.float())
    return torch.where(sure > 0, filled, nearness.new_tensor(0.1))


def views(
    pictures_Bchw: Tensor, nearness_Byx: Tensor, motion_BN4: Tensor, pitch_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Pictures as N moved cameras see them.

    Resampled by cubes: pictures are carried along chunk after chunk, and each time straight lines would blur them.

    Returns:
        Pictures (B, N, c, h, w) and what share of each pixel was seen before, (B, N, 1, h, w); what was hidden
        shows whatever lies beside it.
    """
    size = pictures_Bchw.shape[-2:]
    nearness, covered = seen_nearness(nearness_Byx, motion_BN4, pitch_B)
    maps = torch.stack([nearness, covered], 2).flatten(0, 1)
    fine = interpolate(maps, size=size, mode="bilinear").unflatten(0, nearness.shape[:2])
    there = motion_BN4.flatten(0, 1)[:, None]
    pitch = (pitch_B[:, None] + motion_BN4[..., 3]).flatten()
    place, _ = _place_and_depth(fine[:, :, 0].flatten(0, 1), opposite(there), pitch)
    place = place[:, 0].unflatten(0, nearness.shape[:2])
    inside = _inside(place)
    return sample(pictures_Bchw, place, "bicubic"), (fine[:, :, 1] * inside)[:, :, None]


def sample(pictures_Bchw: Tensor, place_BNyx2: Tensor, mode: str = "bilinear") -> Tensor:
    """N resampled copies (B, N, c, y, x) of each picture."""
    count, rows = place_BNyx2.shape[1:3]
    # The copies of one picture lie below one another in one tall grid, which saves copying the picture.
    grid = place_BNyx2.flatten(1, 2)
    out = grid_sample(pictures_Bchw, grid, mode=mode, padding_mode="border", align_corners=False)
    return out.unflatten(2, (count, rows)).movedim(2, 1)


def nominal_motions() -> Tensor:
    """The motion that every composite action stands for, in nominal units, (81, 4)."""
    paths = torch.stack([torch.zeros(NUM_ACTIONS, dtype=torch.long), torch.arange(NUM_ACTIONS)], -1)
    poses = torch.stack([nominal_poses(path, MOTION) for path in paths])
    return level_motion(poses[:, 0], poses[:, 1]) / torch.tensor(NOMINAL)


# Made here and not at first use, which may be a trace without data.
_TRIED = nominal_motions()


@torch.no_grad()
def measured_motion(pictures_B23hw: Tensor, nearness_B2yx: Tensor, pitch_B2: Tensor) -> Tensor:
    """How the camera moved from the first to the second picture, (B, 4): the motion that explains both best.

    Every composite action's own motion is tried, there and back, on pictures without brightness and contrast;
    motions that explain the pictures about equally well are averaged.
    """
    nearness_B2yx = interpolate(nearness_B2yx, size=NEARNESS_SHAPE, mode="area")
    at_once = PAIRS_AT_ONCE if pictures_B23hw.device.type == "cpu" else len(pictures_B23hw)
    pieces = zip(*(x.split(at_once) for x in (pictures_B23hw, nearness_B2yx, pitch_B2)), strict=True)
    return torch.cat([_measured_motion(*piece) for piece in pieces])


def _measured_motion(pictures_B23hw: Tensor, nearness_B2yx: Tensor, pitch_B2: Tensor) -> Tensor:
    tried = _TRIED.to(pictures_B23hw.device)
    planes = without_contrast(pictures_B23hw.flatten(0, 1)).unflatten(0, (-1, 2))
    cost = torch.zeros(len(pictures_B23hw), len(tried), device=tried.device)
    for first, motions in ((0, tried), (1, opposite(tried))):
        place, _ = _place_and_depth(
            nearness_B2yx[:, first], motions.expand(len(cost), -1, -1), pitch_B2[:, first]
        )
        # In place, as memory for each of these large tensors would have to be found anew.
        error = sample(planes[:, 1 - first], place).sub_(planes[:, first, None]).abs_().mean(2)
        inside = _inside(place)
        error = error.clamp_max(WORST_MATCH) * inside
        cost += error.sum((-1, -2)) / inside.sum((-1, -2)).clamp_min(1)
    likely = torch.softmax(-cost / SURENESS, -1)
    return likely @ tried


def without_contrast(pictures_Bchw: Tensor) -> Tensor:
    """Pictures at the resolution of nearness, each place in units of the contrast around it."""
    small = interpolate(pictures_Bchw, size=NEARNESS_SHAPE, mode="area")
    local = small - _smooth(small, CONTRAST_REACH)
    return local / (_smooth(local.square(), CONTRAST_REACH).sqrt() + CONTRAST_FLOOR)


def _inside(place: Tensor) -> Tensor:
    """Which places (..., 2) lie inside of the picture; as ``(place.abs() < 1).all(-1)``, twice as fast."""
    return torch.maximum(place[..., 0].abs(), place[..., 1].abs()) < 1


def _smooth(planes: Tensor, reach: int) -> Tensor:
    """Mean over squares of ``2 reach + 1`` pixels, the border's pixels going on outside.

    Two matrix products: many times as fast as pooling, which adds up a window for every pixel.
    """
    down, across = (_means(size, reach, planes) for size in planes.shape[-2:])
    with torch.autocast(planes.device.type, enabled=False):
        return ((planes @ across.T).mT @ down.T).mT


def _means(size: int, reach: int, like: Tensor) -> Tensor:
    """The matrix (size, size) that takes means over ``2 reach + 1`` entries of a row."""
    offsets = torch.arange(-reach, reach + 1, device=like.device)
    taken = (torch.arange(size, device=like.device)[:, None] + offsets).clamp(0, size - 1)
    shares = like.new_full(taken.shape, 1 / (2 * reach + 1))
    return like.new_zeros(size, size).scatter_add(1, taken, shares)
