"""Where all parts are in space: things by their middles, the gripper by its palm and fingers."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import (
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT,
    CUP_HEIGHT,
    FINGER_HALF,
    PALM_HALF,
)
from worldcompass.worlds.hands.network.state import State

PALM_RISE = 2 * FINGER_HALF[2] + PALM_HALF[2]  # of its middle over the point between the finger tips
BELOW = (
    CUP_HEIGHT / 2,
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT / 2,
    PALM_HALF[2],
    FINGER_HALF[2],
    FINGER_HALF[2],
)
"""How far each of ``PARTS`` reaches below its middle when it stands, metres."""


def places_of(state: State) -> tuple[Tensor, Tensor]:
    """Middles and axes of all ``PARTS``, (N, 7, 3) each."""
    palm, left, right = gripper_places(state.grip_4)
    gripper = torch.stack([palm, left, right], -2)
    upright = torch.zeros_like(gripper)
    upright[..., 2] = 1
    return torch.cat([state.middle_T3, gripper], -2), torch.cat([state.up_T3, upright], -2)


def gripper_places(grip_4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Middles of palm, left and right finger; (..., 3) each."""
    x, y, z, opening = grip_4.unbind(-1)
    aside, middle = opening / 2 + FINGER_HALF[0], z + FINGER_HALF[2]
    return (
        torch.stack([x, y, z + PALM_RISE], -1),
        torch.stack([x - aside, y, middle], -1),
        torch.stack([x + aside, y, middle], -1),
    )
