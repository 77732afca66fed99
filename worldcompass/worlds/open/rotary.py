"""Rotary embedding over time, height and width (RoPE, arXiv 2104.09864), with angles in float64.

What a position in time counts is the caller's choice: WorldPlay counts within the window of attention, causal Wan
within the video.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, (tokens, head / 2): one angle for each pair of neighbouring dimensions."""


def rotary_table(
    first: int, shape: tuple[int, int, int], dims: tuple[int, int, int], theta: float, device: torch.device
) -> Rotary:
    """The table of K latents of H × W tokens; float32.

    Args:
        first: position in time of the first latent.
        shape: (K, H, W).
        dims: dimensions of a head for time, height and width.
        theta: base of the frequencies.
        device: of the table.
    """
    places = [torch.arange(size, device=device).double() for size in shape]
    places[0] = places[0] + first
    grid = torch.meshgrid(*places, indexing="ij")
    angles = []
    for place, dim in zip(grid, dims, strict=True):
        rates = theta ** (-torch.arange(0, dim, 2, device=device).double() / dim)
        angles.append(place.flatten()[:, None] * rates)
    angle = torch.cat(angles, -1)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BhNd: Tensor, rotary: Rotary) -> Tensor:
    """Rotate each pair of neighbouring dimensions; computed in float32, returned in the dtype of ``x``."""
    cos, sin = rotary
    a, b = x_BhNd.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x_BhNd.dtype)
