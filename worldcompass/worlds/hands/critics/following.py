"""Commands as differences of the gripper's place between latents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldcompass.types import Scenario
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.critics.reader import SceneReader
from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT, NOMINAL, THRESHOLD


def labels_by(grip_of: Callable[[Tensor], Tensor], frames_PF3hw: Tensor) -> Tensor:
    """Composites of P videos of F = 4 M - 3 uint8 frames, one per latent, with 0 for latent 0; int64 (P, M).

    Args:
        grip_of: x, y, z and opening (N, 4) in metres of frames (N, 3, h, w).
        frames_PF3hw: the videos.

    Raises:
        ValueError: when F is not 4 M - 3.
    """
    videos, count = frames_PF3hw.shape[:2]
    if count % FRAMES_PER_LATENT != 1:
        raise ValueError(f"expected 4 M - 3 frames for M latents, got {count}")
    change = changes_by(grip_of, frames_PF3hw)
    signs = torch.where(change.abs() > torch.tensor(THRESHOLD).to(change), change.sign(), 0).long()
    found = [ACTIONS.composite([int(sign) for sign in row]) for row in signs.flatten(0, 1)]
    moved = torch.tensor(found, dtype=torch.long).view(signs.shape[:2])
    return torch.cat([torch.zeros(videos, 1, dtype=torch.long), moved], 1)


def changes_by(grip_of: Callable[[Tensor], Tensor], frames_PF3hw: Tensor) -> Tensor:
    """How far the gripper goes in each latent after the first, metres; (P, M - 1, 4)."""
    ends = frames_PF3hw[:, ::FRAMES_PER_LATENT]
    return grip_of(ends.flatten(0, 1)).unflatten(0, ends.shape[:2]).diff(dim=1)


def nearness_by(grip_of: Callable[[Tensor], Tensor], video_F3hw: Tensor, scenario: Scenario) -> np.ndarray:
    """For every frame how near its latent's motion comes to the engine's: 1 minus the mean miss in steps; (F,).

    Commands count as followed from part of their length; this says how much of it is made, and what is made beside
    it. Below 0 for motions that are off by more than a step on average. The start image has 1.
    """
    assert scenario.truth is not None
    moved_K4 = changes_by(grip_of, video_F3hw[None])[0] / torch.tensor(NOMINAL).float()
    wanted_K4 = scenario.truth.actions.controls.flat_KA[1 : 1 + len(moved_K4)]
    near = 1 - (moved_K4 - wanted_K4).abs().mean(1).numpy()
    return np.concatenate([[1.0], near.repeat(FRAMES_PER_LATENT)])


class GripperReader:
    """Reads the commands of whole videos with the critics' network."""

    def __init__(self, reader: SceneReader) -> None:
        self.reader = reader

    def labels(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``labels_by``."""
        return labels_by(lambda frames: self.reader.read(frames).grip_N4, frames_PF3hw)
