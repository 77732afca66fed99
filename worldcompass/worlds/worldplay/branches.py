"""WorldPlay's attention to the past: two branches with the same queries, keys and values.

One branch rotates them by the tokens' positions (``rotary``), the other transforms them by the tokens' cameras
(``prope``). Both transformers use it: once per chunk for finished latents, whose keys and values are stored, and at
every denoising step for noisy ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from worldcompass.worlds.open.attention import KeyValues, attend_after
from worldcompass.worlds.open.prope import Cameras, cameras
from worldcompass.worlds.open.rotary import Rotary, rotary_table, rotate

Prefix = Sequence[KeyValues]
"""Keys and values of one past, per block."""

Attend = Callable[[Tensor, Tensor, Tensor], tuple[tuple[Tensor, ...], KeyValues]]
"""Queries, keys and values (B, heads, N, head) -> output of each branch, of this shape, and what to store."""


@dataclass(frozen=True)
class Latents:
    """Latents of B rows, finished or noisy, with their conditions."""

    latents_BCKHW: Tensor
    """All channels that the network reads."""
    timesteps_BK: Tensor
    """0 to 1000."""
    labels_BK: Tensor
    world_from_camera_BK44: Tensor
    """float32, as are the intrinsics, for every dtype of the network."""
    intrinsics_BK4: Tensor
    first_position: int
    """Position in time of the first latent, which is the number of latents in the prefix."""


def attention_for(
    inputs: Latents, grid: tuple[int, int, int], dims: tuple[int, int, int], theta: float
) -> Callable[[Sequence[KeyValues]], Attend]:
    """A function that makes the attention of these latents, given the pasts of a block.

    Args:
        inputs: the latents.
        grid: tokens along time, height and width.
        dims: dimensions of a head that rotate with each.
        theta: base of their frequencies.
    """
    device = inputs.latents_BCKHW.device
    return partial(
        _attend_after,
        rotary_table(inputs.first_position, grid, dims, theta, device),
        cameras(inputs.world_from_camera_BK44, inputs.intrinsics_BK4),
    )


def extend(past: KeyValues | None, own_RBhNd: KeyValues, row: int) -> KeyValues:
    """Keys and values of a past, if any, followed by those of its row."""
    k, v = (own[:, row] for own in own_RBhNd)
    return (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))


def _attend_after(rotary: Rotary, projections: Cameras, pasts: Sequence[KeyValues]) -> Attend:
    return partial(_attend, rotary=rotary, projections=projections, pasts=pasts)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, projections: Cameras, pasts: Sequence[KeyValues]
) -> tuple[tuple[Tensor, ...], KeyValues]:
    """Both branches, stacked along the first axis; stored keys are already transformed."""
    q_RBhNd = torch.stack([rotate(q, rotary), projections.queries(q)])
    k_RBhNd = torch.stack([rotate(k, rotary), projections.keys(k)])
    v_RBhNd = torch.stack([v, projections.keys(v)])
    by_position, by_camera = attend_after(q_RBhNd, k_RBhNd, v_RBhNd, pasts)
    return (by_position, projections.outputs(by_camera)), (k_RBhNd, v_RBhNd)
