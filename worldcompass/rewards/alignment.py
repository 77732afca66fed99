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
    references_M3hw: Tensor
    fit_N: Tensor
    """Correlation of the brightness gradients at the best shift, between -1 and 1; 0 for a flat picture."""


def align(frames_N3hw: Tensor, references_M3hw: Tensor, most: int = MOST_SHIFT) -> Aligned:
    """Shift each frame by up to ``most`` pixels so that its gradients agree best with its reference's.

    Both are cut by ``most`` pixels on every side, so pictures must be larger than ``2 * most + 1``.

    Args:
        frames_N3hw: several times the M references, in their order.
        references_M3hw: of the frames.
        most: pixels, each way.
    """
    height, width = (size - 2 * most for size in frames_N3hw.shape[-2:])
    inside = (..., slice(most, most + height), slice(most, most + width))
    wanted_MD = _flat(*_gradients(luma(references_M3hw)[inside]))
    across, down = _gradients(luma(frames_N3hw))
    shifts = [(top, left) for top in range(2 * most + 1) for left in range(2 * most + 1)]
    fits = [
        _correlation(
            _flat(_cut(across, shift, height, width - 1), _cut(down, shift, height - 1, width)), wanted_MD
        )
        for shift in shifts
    ]
    fit_N, best_N = torch.stack(fits).max(0)
    moved = [
        _cut(frame, shifts[int(best)], height, width) for frame, best in zip(frames_N3hw, best_N, strict=True)
    ]
    return Aligned(torch.stack(moved), references_M3hw[inside], fit_N)


def _cut(picture: Tensor, start: tuple[int, int], height: int, width: int) -> Tensor:
    return picture[..., start[0] : start[0] + height, start[1] : start[1] + width]


def _gradients(bright_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right (N, h, w - 1) and downwards (N, h - 1, w)."""
    return bright_Nhw.diff(dim=-1), bright_Nhw.diff(dim=-2)


def _flat(across: Tensor, down: Tensor) -> Tensor:
    """Both in one row, (N, D)."""
    return torch.cat([across.flatten(1), down.flatten(1)], 1)


def _correlation(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Cosine of the gradients; a gradient's mean carries meaning, so it is not subtracted."""
    a_GMD = a_ND.unflatten(0, (-1, len(b_MD)))
    size = a_GMD.norm(dim=-1) * b_MD.norm(dim=-1)
    return ((a_GMD * b_MD).sum(-1) / size.clamp_min(1e-6)).flatten()
