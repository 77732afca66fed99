"""Where everything is, as numbers that a latent holds beside colour: what a moment's pixels alone don't tell.

A picture shows of the gripper's height no more than a shadow, and of a ball not whether it rolls. So latents carry
these numbers along, each as a plane of one value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import ABSENT_POSE, BOTTLE_HEIGHT, CUP_HEIGHT, THINGS
from worldcompass.worlds.hands.silhouettes import rotation

GRIP, THING = 4, 9
NUMBERS = GRIP + THING * len(THINGS)
GONE = -0.2  # height of what a scene does not have, metres
TALL = np.array([CUP_HEIGHT, 0.0, 0.0, BOTTLE_HEIGHT])
"""Height of things whose own origin is the middle of their base; only such things lean."""


@dataclass(frozen=True)
class State:
    """Of any leading dimensions, metres."""

    grip_4: Tensor
    """x, y, z of the point between the finger tips, and the opening."""
    middle_T3: Tensor
    """Of each thing; z is ``GONE`` where the scene does not have it."""
    up_T3: Tensor
    """Direction of its axis, of length 1; upwards for things that look alike however they lie."""
    speed_T3: Tensor
    """How far its middle came over the last latent."""

    @staticmethod
    def of(numbers: Tensor) -> State:
        """Take ``NUMBERS`` (last dimension) apart."""
        grip, things = numbers.split((GRIP, THING * len(THINGS)), -1)
        return State(grip, *things.unflatten(-1, (len(THINGS), THING)).split(3, -1))

    def numbers(self) -> Tensor:
        """The inverse of ``of``."""
        return torch.cat(
            [self.grip_4, torch.cat([self.middle_T3, self.up_T3, self.speed_T3], -1).flatten(-2)], -1
        )

    @property
    def here_T(self) -> Tensor:
        """bool: which things the scene has."""
        return self.middle_T3[..., 2] > GONE / 2

    def each(self, rows: Tensor | slice | tuple[slice | int, ...]) -> Self:
        """Some of them."""
        return type(self)(self.grip_4[rows], self.middle_T3[rows], self.up_T3[rows], self.speed_T3[rows])


def middles_and_axes(poses_T7: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and axis of each thing, see ``State``; float64 (T, 3) each."""
    axes = np.tile([0.0, 0.0, 1.0], (len(THINGS), 1))
    middles = poses_T7[:, :3].astype(float)
    for index, pose in enumerate(poses_T7):
        if pose[2] <= ABSENT_POSE[2]:
            middles[index] = 0, 0, GONE
        elif TALL[index]:
            axes[index] = rotation(pose[3:])[:, 2]
            middles[index] += TALL[index] / 2 * axes[index]
    return middles, axes


def numbers_of(grip_4: np.ndarray, poses_T7: np.ndarray, before_T7: np.ndarray) -> np.ndarray:
    """``State.numbers`` of what is true; float32 (NUMBERS,).

    Args:
        grip_4: x, y, z and the opening.
        poses_T7: position and quaternion of the things.
        before_T7: the same at the end of the latent before.
    """
    (middles, axes), (earlier, _) = middles_and_axes(poses_T7), middles_and_axes(before_T7)
    things = np.concatenate([middles, axes, middles - earlier], 1)
    return np.concatenate([grip_4, things.ravel()]).astype(np.float32)


def as_planes(numbers_ND: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes (N, D, h, w) of one value each."""
    return numbers_ND[..., None, None].expand(-1, -1, *size)
