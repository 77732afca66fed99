"""Faults of pictures that a reader must live with, and pictures from which it must read nothing.

Frames are floats in [0, 1], in windows of W frames of one latent. Lengths are for frames of 64 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

LEAST_BLUR = 2.0  # deviation in pixels from which nothing can be read
MOST_BLUR = 1.0  # up to which everything can
MOST_GHOST, MOST_GRAIN = 0.25, 0.04  # weight of another moment, and deviation, of 1, that are lived with
SHARE = 0.35  # of windows that each fault hits
TILE = 8  # pixels of what is shuffled
STILL = 0.008  # mean change between frames, of 1, below which their order does not show


def faulty(windows_BW3hw: Tensor, near_BW3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Windows with the faults of imagined pictures: blur, grain, tint, a ghost of another moment, a shift.

    Args:
        windows_BW3hw: to change.
        near_BW3hw: other moments of the same recordings.
        generator: of all draws.
    """
    made = shifted(windows_BW3hw, generator)

    def hit() -> Tensor:
        return (torch.rand(len(made), generator=generator) < SHARE).nonzero()[:, 0]

    def drawn(rows: Tensor, low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand(len(rows), *(shape or (1, 1, 1, 1)), generator=generator)
        return low + (high - low) * values

    rows = hit()
    made[rows] = torch.lerp(made[rows], near_BW3hw[rows], drawn(rows, 0.0, MOST_GHOST))
    rows, sigma = hit(), 0.3 + (MOST_BLUR - 0.3) * float(torch.rand((), generator=generator))
    made[rows] = blurred(made[rows], sigma)
    rows = hit()
    made[rows] = made[rows] * drawn(rows, 0.85, 1.15) + drawn(rows, -0.06, 0.06, 1, 3, 1, 1)
    rows = hit()
    grain = torch.randn(made[rows].shape, generator=generator)
    made[rows] = made[rows] + drawn(rows, 0.0, MOST_GRAIN) * grain
    return made.clamp_(0, 1)


def shifted(windows_BW3hw: Tensor, generator: torch.Generator, most: int = 2) -> Tensor:
    """All windows moved by the same few pixels."""
    height, width = windows_BW3hw.shape[-2:]
    top, left = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    around = pad(windows_BW3hw.flatten(1, 2), (most,) * 4, mode="replicate")
    return around[..., top : top + height, left : left + width].reshape(windows_BW3hw.shape)


def blurred(windows_BW3hw: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, sigma in pixels."""
    half = min(max(1, round(2.5 * sigma)), min(windows_BW3hw.shape[-2:]) - 1)
    offsets = torch.arange(-half, half + 1).float()
    line = (-offsets.square() / (2 * sigma**2)).exp()
    kernel = (line / line.sum()).expand(3, 1, 1, -1)
    padded = pad(windows_BW3hw.flatten(0, 1), (half,) * 4, mode="replicate")
    return conv2d(conv2d(padded, kernel, groups=3), kernel.mT, groups=3).view_as(windows_BW3hw)


Void = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(windows (B, W, 3, h, w), other windows, generator) -> windows that show nothing, made of them."""


def noise(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, of each frame or one for all."""
    size = (len(windows), 1 if _coin(generator) else windows.shape[1], *windows.shape[2:])
    return torch.rand(size, generator=generator).expand_as(windows)


def flat(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """One colour."""
    return torch.rand(len(windows), 1, 3, 1, 1, generator=generator).expand_as(windows)


def deep_blur(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Blur in which nothing moves visibly, with grain or without."""
    sizes = LEAST_BLUR * (1 + 2 * torch.rand(len(windows), generator=generator))
    made = torch.cat([blurred(part, float(size)) for part, size in zip(windows.split(1), sizes, strict=True)])
    return made + 0.06 * _coin(generator) * torch.randn(made.shape, generator=generator)


def tiles(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Parts of the picture in another order, which is the same in all frames."""
    size = TILE if min(windows.shape[-2:]) >= 3 * TILE else TILE // 2
    parts = windows.unfold(-2, size, size).unfold(-2, size, size)
    rows, columns = parts.shape[3:5]
    order = torch.randperm(rows * columns, generator=generator)
    mixed = parts.flatten(3, 4)[:, :, :, order].unflatten(3, (rows, columns))
    return mixed.transpose(4, 5).flatten(5, 6).flatten(3, 4)


def blended(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Two windows over each other."""
    return (windows + others) / 2


def foreign(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """A cut to another window in the middle."""
    half = windows.shape[1] // 2
    return torch.cat([windows[:, :half], others[:, half:]], 1)


def texture(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Spots of colour that drift and grow."""
    count, frames, _, height, width = windows.shape
    cells = int(torch.randint(3, 20, (), generator=generator))
    spots = torch.rand(count, 3, cells, cells, generator=generator)
    drift = 0.15 * torch.randn(count, 1, 2, generator=generator) * torch.arange(frames)[:, None]
    zoom = (0.03 * torch.randn(count, 1, 1, generator=generator) * torch.arange(frames)[:, None]).exp()
    grid = torch.zeros(count, frames, 2, 3)
    grid[..., 0, 0] = grid[..., 1, 1] = 0.5 * zoom[..., 0]
    grid[..., 2] = drift
    canvas = spots.repeat_interleave(frames, 0)
    where = affine_grid(grid.flatten(0, 1), [count * frames, 3, height, width], align_corners=False)
    made = grid_sample(canvas, where, padding_mode="reflection", align_corners=False)
    return made.view_as(windows)


def disordered(windows: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Frames in an order that is neither theirs nor its reverse; still windows get a cut instead."""
    frames = windows.shape[1]
    if frames < 3:
        return foreign(windows, others, generator)
    plain = list(range(frames))
    order = plain
    while order in (plain, plain[::-1]):
        order = torch.randperm(frames, generator=generator).tolist()
    moving = windows.diff(dim=1).abs().mean((1, 2, 3, 4)) > STILL
    return torch.where(moving.view(-1, 1, 1, 1, 1), windows[:, order], foreign(windows, others, generator))


VOIDS: tuple[Void, ...] = (noise, flat, deep_blur, deep_blur, tiles, blended, foreign, texture, disordered)


def void(windows_BW3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Windows that show nothing: as many of each kind as there is room for."""
    others = windows_BW3hw.roll(1, 0)
    turn = int(
        torch.randint(len(VOIDS), (), generator=generator)
    )  # who is first, where there are few windows
    kinds = VOIDS[turn:] + VOIDS[:turn]
    parts = zip(kinds, *(part.tensor_split(len(VOIDS)) for part in (windows_BW3hw, others)), strict=True)
    made = [make(own, other, generator) for make, own, other in parts if len(own)]
    return torch.cat(made).clamp(0, 1)


def _coin(generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < 0.5
