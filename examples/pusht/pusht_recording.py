"""What a recording of PushT holds, and where its shards lie; nothing here knows the environment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldcompass.worlds.small.data import Episode, Format

SIZE = 64  # pixels of a picture's side
PER_LATENT = 2  # controls between two pictures
FPS = 5.0


@dataclass(frozen=True)
class PushEpisode(Episode):
    """One episode; a frame for each latent, (64, 64)."""

    controls_M22: np.ndarray
    """float32: the two controls (x, y) that lead to each latent; 0 for latent 0."""
    state_M5: np.ndarray
    """float32: agent x, y; T x, y, angle at the end of each latent. Board pixels and radians."""
    kind: np.ndarray
    """uint8: what the agent did, an index into the ``kinds`` of the card."""


FORMAT = Format(
    PushEpisode, version=1, frames_per_latent=1, remedy="make them with 'python pusht_collect.py'"
)
