"""What the fixed camera may see after commands: earlier pictures, as they are and shifted as the gripper moves.

A view that stands still is exact about all that does; a shifted one shows the gripper, and what it holds, where the
commands take it. The network picks from them pixel by pixel, so it only has to draw what no view shows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import STEP
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.small.interpolation import pixel_centres, sample

VIEWS = ("last", "start", "plate", "moved", "left", "right", "flat")
"""The last picture, the first one, the ground plate, and the last one moved like the palm, each finger, and what
slides along."""

PLATE_PICTURES = 8  # of the past that the plate is made of, next to the last one

MIDDLE = (0.0, 0.0, 0.11)  # of the gripper's range, metres
NEAR = 0.02  # metres to each side of it, between which the projection is taken as straight


def pixels_per_step() -> Tensor:
    """How far the middle of the gripper's range moves in the picture with a step on x, y or z; (2, 3).

    Rows are right and down, in pixels for ``facts.STEP``.
    """
    sides = np.array(MIDDLE) + NEAR * np.stack([np.eye(3), -np.eye(3)])
    ahead, behind = (project(points) for points in sides)
    return torch.from_numpy((ahead - behind).T / (2 * NEAR) * STEP).float()


_PIXELS = pixels_per_step()


def motions(summed_BK4: Tensor) -> Tensor:
    """Pixels (right, down) by which the last picture is shifted for each view after the still ones; (B, K, 4, 2).

    Args:
        summed_BK4: controls since the last picture, added up: x, y, z, and the opening, of which each finger makes
            one half.
    """
    pixels = _PIXELS.to(summed_BK4)
    moved = summed_BK4[..., :3] @ pixels.T
    flat = summed_BK4[..., :2] @ pixels[:, :2].T
    aside = summed_BK4[..., 3:] * pixels[:, 0]
    return torch.stack([moved, moved - aside, moved + aside, flat], 2)


def plate_indices(count: int) -> Tensor:
    """Which of ``count`` pictures of the past the plate is made of: the oldest, the newest, and evenly between."""
    return torch.linspace(0, count - 1, min(count, PLATE_PICTURES)).round().long()


def plate_of(pictures_BN3hw: Tensor) -> Tensor:
    """The ground plate (B, 3, h, w): in each pixel the middle one of the pictures of the past.

    It shows what the gripper hides just now, if it was elsewhere most of the time.
    """
    return pictures_BN3hw.median(1).values


def views_after(last_B3hw: Tensor, start_B3hw: Tensor, plate_B3hw: Tensor, summed_BK4: Tensor) -> Tensor:
    """All ``VIEWS`` for each of K latents, three channels each; (B, 3 * 7, K, h, w).

    Resampled by cubes: pictures are carried along chunk after chunk, and straight lines would blur them.

    Args:
        last_B3hw: the last finished picture.
        start_B3hw: the first picture of the video.
        plate_B3hw: see ``plate_of``.
        summed_BK4: see ``motions``.
    """
    shifts = motions(summed_BK4)
    place = pixel_centres(last_B3hw) - shifts.flatten(1, 2)[:, :, None, None]
    shifted = sample(last_B3hw, place, "bicubic").unflatten(1, shifts.shape[1:3])
    still = torch.stack([last_B3hw, start_B3hw, plate_B3hw], 1)[:, None].expand(
        -1, shifts.shape[1], -1, -1, -1, -1
    )
    return torch.cat([still, shifted], 2).flatten(2, 3).transpose(1, 2)
