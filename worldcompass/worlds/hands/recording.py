"""What a recording of the Hands engine holds; nothing here knows the engine.

The card says what made the recordings and the ``kinds`` of behaviour. Shards are named by five digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldcompass.worlds.hands.facts import FRAMES_PER_LATENT
from worldcompass.worlds.small.data import Episode, Format


@dataclass(frozen=True)
class HandsEpisode(Episode):
    """One recorded episode with T = 4 things; frames are (64, 64)."""

    actions_M: np.ndarray
    """int16: composite action, 0 for latent 0; the nearest one where the controls were continuous."""
    controls_M4: np.ndarray
    """float32: x, y, z, opening in [-1, 1], what was really commanded."""
    grip_F4: np.ndarray
    """float32: x, y, z of the point between the finger tips, opening; metres."""
    things_FT7: np.ndarray
    """float32: position and quaternion (w, x, y, z) of cup, ball, block, bottle."""
    touch_FT5: np.ndarray
    """bool: whether each touches table, left and right finger, palm, another."""
    held_FT: np.ndarray
    """bool: between both fingers and off the table."""
    bare_Mhw3: np.ndarray
    """uint8 sRGB: the last frame of each latent as if the gripper were not there."""
    table_hw3: np.ndarray
    """uint8 sRGB: the empty table."""
    present_T: np.ndarray
    """bool: whether the scene has the thing."""
    kind: np.ndarray
    """uint8: what the gripper did, an index into the ``kinds`` of the card."""
    number: np.ndarray
    """int64: the scene's number in its split; ``splits.scene`` gives its colours."""


FORMAT = Format(
    HandsEpisode,
    version=2,
    frames_per_latent=FRAMES_PER_LATENT,
    remedy="make them with 'worldcompass hands collect'",
)


def shard_folder(root: Path, split: str, index: int) -> Path:
    """Where a shard lies."""
    return root / split / f"{index:05d}"
