"""Rotary embedding of Waypoint (RoPE, arXiv 2104.09864) over width, height and absolute time, in float32.

Of a head's pairs of neighbouring dimensions a quarter turn with x, a quarter with y and the other half with time.
Each frequency turns two consecutive pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, (tokens, head / 2)."""

TIME_BASE = 10_000.0
FINEST = 0.4  # largest spatial frequency, in turns per token of the shorter side


def rotary_table(frame: int, grid: tuple[int, int], head: int, device: torch.device) -> Rotary:
    """The table of one frame's tokens, row by row.

    Args:
        frame: its absolute number.
        grid: tokens, (height, width).
        head: dimensions of a head.
        device: of the table.
    """
    height, width = grid
    rates = math.pi * torch.linspace(1, FINEST * min(grid), head // 16)
    y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    times = (TIME_BASE ** (-2 * torch.arange(head // 8, dtype=torch.float64) / (head // 4))).float()
    angles = [place.flatten()[:, None] * rates for place in (x, y)]
    angles.append((frame * times).expand(height * width, -1))
    angle = torch.cat([part.repeat_interleave(2, -1) for part in angles], -1).to(device)
    return angle.cos(), angle.sin()


def rotate(x_BhNd: Tensor, rotary: Rotary) -> Tensor:
    """Rotate pairs of neighbours in float32; all first components, then all second ones, in the dtype of ``x``."""
    cos, sin = rotary
    a, b = x_BhNd.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x_BhNd.dtype)


def _centres(count: int) -> Tensor:
    """Centres of ``count`` tokens that divide -1 to 1."""
    return torch.linspace(-1 + 1 / count, 1 - 1 / count, count)
