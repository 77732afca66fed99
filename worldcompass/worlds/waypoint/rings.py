"""Ring caches as values: which finished frames a layer sees, and which it keeps.

Frames are counted from 0 at the start of a video, given ones included. A layer keeps every ``dilation``-th frame.
It sees the last ``slots`` of them; where the current frame will be kept itself, one less, as it takes the place of
the oldest one. With dilation 1 that is a window over the last frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.worlds.open.attention import KeyValues
from worldcompass.worlds.waypoint.config import WaypointConfig


@dataclass(frozen=True)
class Sight:
    """What one kind of layer remembers."""

    dilation: int
    """Kept frames are multiples of it."""
    slots: int
    """Places for them, the current one's included if it is kept."""


@dataclass(frozen=True)
class Kept:
    """Keys and values of a finished frame in one layer; never changed."""

    frame: int
    keys_hNd: Tensor
    """Normalised and rotated."""
    values_hNd: Tensor


Ring = tuple[Kept, ...]
"""The kept frames of one layer and one past, in the order of time."""


def sights(config: WaypointConfig) -> tuple[Sight, ...]:
    """What each layer remembers."""
    near = Sight(1, config.local_window)
    far = Sight(config.dilation, config.global_window // config.dilation)
    return tuple(far if config.is_global(layer) else near for layer in range(config.num_layers))


def visible(ring: Ring, frame: int, sight: Sight) -> Ring:
    """The finished frames that a layer sees from ``frame``, which comes after all of them."""
    most = sight.slots - (frame % sight.dilation == 0)
    return ring[max(0, len(ring) - most) :]


def kept(ring: Ring, frame: int, keys_hNd: Tensor, values_hNd: Tensor, sight: Sight) -> Ring:
    """The ring after a frame is finished; the old one is not changed."""
    if frame % sight.dilation:
        return ring
    # Copies: a view would hold the keys of all rows.
    longer = (*ring, Kept(frame, keys_hNd.clone(), values_hNd.clone()))
    most = sight.slots - (sight.dilation == 1)  # a window always leaves one place to the current frame
    return longer[max(0, len(longer) - most) :]


def seen(ring: Ring, frame: int, sight: Sight) -> KeyValues | None:
    """Keys and values of the visible frames, (1, heads, tokens, head), for ``attend_after``; None without any."""
    frames = visible(ring, frame, sight)
    if not frames:
        return None
    return torch.cat([f.keys_hNd for f in frames], 1)[None], torch.cat([f.values_hNd for f in frames], 1)[
        None
    ]
