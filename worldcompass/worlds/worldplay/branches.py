"""WorldPlay's attention to the past: two branches with the same queries, keys and values.

One branch turns them by the tokens' places (``rotary``), the other by their cameras (``prope``). Both transformers
use it, for finished latents (once per chunk, leaving keys and values) and for noisy ones (at every denoising step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldcompass.worlds.worldplay.attention import KeyValues, attend_after
from worldcompass.worlds.worldplay.prope import Cameras, cameras
from worldcompass.worlds.worldplay.rotary import Rotary, rotary_table, rotate

Prefix = Sequence[KeyValues]
"""Keys and values of one past, per block."""

See = Callable[[Tensor, Tensor, Tensor], tuple[tuple[Tensor, ...], KeyValues]]
"""Queries, keys, values (B, heads, N, head) to what each branch saw (B, heads, N, head), and what to keep."""


@dataclass(frozen=True)
class Latents:
    """Latents of B rows, finished or noisy, with what conditions each of them."""

    latents_BCKHW: Tensor
    """Whatever channels the network reads."""
    timesteps_BK: Tensor
    """0 to 1000."""
    labels_BK: Tensor
    world_from_camera_BK44: Tensor
    """float32, like the intrinsics, whatever the dtype of the network."""
    intrinsics_BK4: Tensor
    first_position: int
    """Position in time of the first latent: how many latents the prefix holds."""


def turned_as(
    inputs: Latents, grid: tuple[int, int, int], dims: tuple[int, int, int], theta: float
) -> Callable[[Sequence[KeyValues]], See]:
    """Attention of latents with their places and cameras, still without a block's past.

    Args:
        inputs: the latents.
        grid: tokens along time, height and width.
        dims: dimensions of a head that rotate with each.
        theta: base of their frequencies.
    """
    device = inputs.latents_BCKHW.device
    return partial(
        _see_for,
        rotary_table(inputs.first_position, grid, dims, theta, device),
        cameras(inputs.world_from_camera_BK44, inputs.intrinsics_BK4),
    )


def extend(past: KeyValues | None, own_RBhNd: KeyValues, row: int) -> KeyValues:
    """A past's keys and values, if any, with those of its row behind them."""
    k, v = (own[:, row] for own in own_RBhNd)
    return (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))


def run_block(recompute: bool, block: nn.Module, *inputs: Any) -> Any:
    """A block's output; with ``recompute`` its activations are made again in the backward pass, not kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)


def _see_for(rotary: Rotary, projections: Cameras, pasts: Sequence[KeyValues]) -> See:
    return partial(_see, rotary=rotary, projections=projections, pasts=pasts)


def _see(
    q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, projections: Cameras, pasts: Sequence[KeyValues]
) -> tuple[tuple[Tensor, ...], KeyValues]:
    """Both branches at once, stacked in front; keys are kept turned, so a prefix is never turned again."""
    q_RBhNd = torch.stack([rotate(q, rotary), projections.queries(q)])
    k_RBhNd = torch.stack([rotate(k, rotary), projections.keys(k)])
    v_RBhNd = torch.stack([v, projections.keys(v)])
    by_place, by_camera = attend_after(q_RBhNd, k_RBhNd, v_RBhNd, pasts)
    return (by_place, projections.seen(by_camera)), (k_RBhNd, v_RBhNd)
