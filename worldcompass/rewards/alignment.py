"""Alignment of frames with a reference: the best shift by a few pixels, and how well it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.media.pixels import luma

MOST_SHIFT = 2  # pixels, each way


@dataclass(frozen=True)
class Aligned:
    """Frames and references cut to the part that both show."""

    frames_N3hw: Tensor
    references_N3hw: Tensor
    fit_N: Tensor
    """Correlation of the brightness gradients at the best shift, between -1 and 1; 0 for a flat picture."""


def align(frames_N3hw: Tensor, references_N3hw: Tensor, most: int = MOST_SHIFT) -> Aligned:
    """Shift each frame by up to ``most`` pixels so that its gradients agree best with its reference's.

    Both are cut by ``most`` pixels on every side, so pictures must be larger than ``2 * most + 1``.
    """
    height, width = frames_N3hw.shape[-2:]
    inside = (..., slice(most, height - most), slice(most, width - most))
    wanted = _gradients(luma(references_N3hw)[inside])
    bright = luma(frames_N3hw)
    steps = range(2 * most + 1)
    shifts = [(down, right) for down in steps for right in steps]
    fits = [
        _correlation(_gradients(_cut(bright, shift, height - 2 * most, width - 2 * most)), wanted)
        for shift in shifts
    ]
    fit_N, best_N = torch.stack(fits).max(0)
    moved = [
        _cut(frame, shifts[int(best)], height - 2 * most, width - 2 * most)
        for frame, best in zip(frames_N3hw, best_N, strict=True)
    ]
    return Aligned(torch.stack(moved), references_N3hw[inside], fit_N)


def _cut(picture: Tensor, start: tuple[int, int], height: int, width: int) -> Tensor:
    return picture[..., start[0] : start[0] + height, start[1] : start[1] + width]


def _gradients(bright_Nhw: Tensor) -> Tensor:
    """Differences to the right and downwards in one row, (N, D)."""
    return torch.cat([bright_Nhw.diff(dim=-1).flatten(1), bright_Nhw.diff(dim=-2).flatten(1)], 1)


def _correlation(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Cosine of the gradients; a gradient's mean carries meaning, so it is not subtracted."""
    size = a_ND.norm(dim=1) * b_ND.norm(dim=1)
    return (a_ND * b_ND).sum(1) / size.clamp_min(1e-6)
