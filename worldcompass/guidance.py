"""Guidance: the direction in which the candidates of a group explore, and who gets how much of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.seeding import Key, generator_for


@dataclass(frozen=True)
class Guidance:
    """The guidance of a batch of candidates."""

    weight_B: Tensor
    """float32: g of each candidate, 0 for none."""
    projected_B: Tensor | None = None
    """bool: candidates guided without the part along their own estimate; none when None."""


def guided(clean: Tensor, weak: Tensor, guidance: Guidance) -> Tensor:
    """``c + g (d - mean d)`` with ``d = c - c_weak``, the mean over each channel of a latent; (B, C, K, H, W).

    Without the subtraction, guidance would shift the colours of every chunk, which accumulates over a video.
    Candidates of ``projected_B`` also lose the part of ``d`` along the estimate, see ``across``.
    """
    away = clean - weak
    away = away - away.mean((-2, -1), keepdim=True)
    if guidance.projected_B is not None:
        rows = guidance.projected_B.view(-1, 1, 1, 1, 1)
        away = torch.where(rows, across(away, clean), away)
    return clean + guidance.weight_B.view(-1, 1, 1, 1, 1) * away


def across(away: Tensor, clean: Tensor) -> Tensor:
    """The part of a centred direction at right angles to the centred estimate, per channel of a latent.

    To first order it leaves every channel's contrast as it is. Source of the projection: adaptive projected
    guidance (arXiv 2410.02416), where the parallel part is the one that saturates.
    """
    shape = clean - clean.mean((-2, -1), keepdim=True)
    along = (away * shape).sum((-2, -1), keepdim=True) / shape.square().sum((-2, -1), keepdim=True).clamp_min(
        1e-12
    )
    return away - along * shape


@dataclass(frozen=True)
class Siblings:
    """How the G candidates of one group differ, by candidate."""

    weight_G: Tensor
    """float32: guidance weights."""
    projected_G: Tensor
    """bool: guided without the part along the estimate."""
    noise_G: tuple[int, ...]
    """Keys of the noise; candidates with equal keys start from the same noise."""


def siblings(
    group_size: int,
    explore: float,
    shared_noise: bool = False,
    projected: float = 0.0,
    free_noises: int = 0,
    keys: tuple[Key, ...] = (0,),
) -> Siblings:
    """Spread guidance over a group's candidates, in a random order that depends on ``keys``.

    The last ``free_noises`` candidates get no guidance, and noise of their own. Of the others a share ``projected``
    gets projected guidance, from the smallest weight above 0 to ``explore``; the rest gets plain guidance, from 0.

    Args:
        group_size: G.
        explore: largest weight.
        shared_noise: whether all candidates but the free ones start from one noise.
        projected: share of the guided candidates.
        free_noises: number of candidates, less than G.
        keys: of the order.
    """
    guided_ones = group_size - free_noises
    across_ones = round(projected * guided_ones)
    weights = torch.cat(
        [
            torch.linspace(0, explore, guided_ones - across_ones),
            torch.linspace(0, explore, across_ones + 1)[1:],
            torch.zeros(free_noises),
        ]
    )
    place = torch.arange(group_size)
    is_projected = (place >= guided_ones - across_ones) & (place < guided_ones)
    order = torch.randperm(group_size, generator=generator_for(*keys))
    # Free noises have keys from 1 on; without shared noise every candidate has its own number.
    noise = [max(0, int(i) - guided_ones + 1) if shared_noise else g for g, i in enumerate(order)]
    return Siblings(weights[order], is_projected[order], tuple(noise))
