"""How alike two pictures are in colours and texture: does a walk still show the place?

A formula for a gauge, not a judge: it knows nothing of shapes. A walker who turns round leaves the start behind, so
likeness to the start means something only next to another pane's. Likeness to the engine's frame of the same moment
needs no such care.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from worldcompass.media.pixels import luma

COLOUR_LEVELS = 6  # of each channel
TEXTURE_SCALES = (1, 2, 4)  # pixels
STRENGTHS = (3.0, 8.0, 20.0)  # borders between flat, faint, clear and strong gradients, in levels of 255
DIRECTIONS = 4  # of a gradient, whose sign does not matter


def likeness(picture_3hw: Tensor, other_3hw: Tensor) -> float:
    """The geometric mean of what two uint8 pictures share of their colours and of their texture, from 0 to 1.

    Shares are intersections of histograms over the whole picture (Swain and Ballard 1991), so it does not matter
    what is where, and a small motion changes little.
    """
    colours = _shared(_colours(picture_3hw), _colours(other_3hw))
    textures = [_shared(_texture(picture_3hw, scale), _texture(other_3hw, scale)) for scale in TEXTURE_SCALES]
    return math.sqrt(colours * sum(textures) / len(textures))


def _shared(first: Tensor, second: Tensor) -> float:
    if not first.any():  # pictures of a few pixels have no gradients at the coarser scales
        return 1.0
    return float(torch.minimum(first / first.sum(), second / second.sum()).sum())


def _colours(picture_3hw: Tensor) -> Tensor:
    """Histogram of colours; every pixel is divided among its eight neighbouring levels, so no border is hard."""
    place = picture_3hw.float().flatten(1) * ((COLOUR_LEVELS - 1) / 255)
    low = place.floor().clamp(max=COLOUR_LEVELS - 2)
    parts, level = torch.stack([1 - (place - low), place - low]), low.long()
    found = place.new_zeros(COLOUR_LEVELS**3)
    for red, green, blue in product((0, 1), repeat=3):
        index = ((level[0] + red) * COLOUR_LEVELS + level[1] + green) * COLOUR_LEVELS + level[2] + blue
        found.index_add_(0, index, parts[red, 0] * parts[green, 1] * parts[blue, 2])
    return found


def _texture(picture_3hw: Tensor, scale: int) -> Tensor:
    """Histogram of the gradients of brightness by strength and direction; flat ones have no direction."""
    bright = avg_pool2d(luma(picture_3hw)[None, None], min(scale, *picture_3hw.shape[1:]))[0, 0]
    across, down = bright[:-1].diff(dim=1), bright[:, :-1].diff(dim=0)
    strength = torch.bucketize(torch.hypot(across, down), bright.new_tensor(STRENGTHS))
    direction = (torch.atan2(down, across) * (DIRECTIONS / math.pi)).round().long() % DIRECTIONS
    kind = torch.where(strength == 0, 0, 1 + (strength - 1) * DIRECTIONS + direction)
    return torch.bincount(kind.flatten(), minlength=1 + len(STRENGTHS) * DIRECTIONS).float()
