"""Formulas for sharpness, flicker and drift of a video's frames.

All take uint8 frames (..., F, 3, h, w); every score is higher-is-better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from worldcompass.media.pixels import luma
from worldcompass.types import Group, Scores

GRADIENT_FLOOR = 1.0  # levels of 255, so that a flat picture has a finite logarithm
FLICKER_CELL = 8  # pixels: between frames, flicker changes the means of cells and motion hardly does


def sharpness(frames_F3hw: Tensor) -> Tensor:
    """Logarithm of the mean absolute gradient of brightness, relative to its contrast; (..., F).

    The division by the standard deviation avoids a reward for contrast and a penalty for dark rooms.
    """
    bright = luma(frames_F3hw)
    across = bright.diff(dim=-1).abs().mean((-2, -1))
    down = bright.diff(dim=-2).abs().mean((-2, -1))
    contrast = bright.std((-2, -1))
    return ((across + down + GRADIENT_FLOOR) / (contrast + 4 * GRADIENT_FLOOR)).log()


def relative_sharpness(frame_3hw: Tensor, first_3hw: Tensor) -> float:
    """Sharpness of a frame as a multiple of the first frame's."""
    return float((sharpness(frame_3hw[None]) - sharpness(first_3hw[None])).exp())


def flicker(frames_F3hw: Tensor) -> Tensor:
    """Minus the mean absolute second difference over time of cell means, as a fraction of 255; (...).

    It is 0 for fewer than three frames.
    """
    bright = luma(frames_F3hw)
    if bright.shape[-3] < 3:
        return bright.new_zeros(bright.shape[:-3])
    cell = min(FLICKER_CELL, *bright.shape[-2:])
    cells = avg_pool2d(bright.flatten(0, -3)[:, None], cell).reshape(*bright.shape[:-2], -1) / 255
    return -cells.diff(n=2, dim=-2).abs().mean((-2, -1))


def colour_statistics(frames_F3hw: Tensor) -> Tensor:
    """Mean and standard deviation of every channel, as a fraction of 255; (..., F, 6)."""
    pixels = frames_F3hw.float().flatten(-2) / 255
    return torch.cat([pixels.mean(-1), pixels.std(-1)], -1)


def drift(frames_F3hw: Tensor, first_frame_3hw: Tensor) -> Tensor:
    """Minus the mean absolute difference of the colour statistics from those of the first frame; (...)."""
    start = colour_statistics(first_frame_3hw)
    return -(colour_statistics(frames_F3hw) - start).abs().mean((-2, -1))


def exposure_drift(frames_F3hw: Tensor, first_frame_3hw: Tensor) -> Tensor:
    """Minus the mean absolute difference of mean brightness from the first frame, as a fraction of 255; (...)."""
    start = luma(first_frame_3hw).mean((-2, -1))
    return -(luma(frames_F3hw).mean((-2, -1)) - start).abs().mean(-1) / 255


def sharpness_loss(frames_F3hw: Tensor, first_frame_3hw: Tensor) -> Tensor:
    """Minus the mean difference of sharpness from the first frame, for blur and added grain; (...)."""
    return -(sharpness(frames_F3hw) - sharpness(first_frame_3hw)).abs().mean(-1)


@dataclass(frozen=True)
class QualityWeights:
    """Weights of the parts, chosen for about equal spreads among imagined candidates.

    Drift weighs three times as much: candidates of one chunk hardly differ in it, but it accumulates over a video.
    """

    sharpness: float = 0.5
    flicker: float = 4.0
    drift: float = 6.0
    realism: float = 1.0


def flicker_of(group: Group) -> Tensor:
    """Flicker of every candidate's chunk, including up to two frames before it; (G,)."""
    frames = group.frames_GF3hw
    before = group.past_frames_F3hw[-2:].to(frames.device)
    return flicker(torch.cat([before.expand(frames.shape[0], *before.shape), frames], 1))


def formula_parts(group: Group) -> dict[str, Tensor]:
    """The parts of quality that need no network, before weighting; each (G,)."""
    frames, first = group.frames_GF3hw, group.first_frame_3hw
    return {
        "sharpness": sharpness_loss(frames, first),
        "flicker": flicker_of(group),
        "drift": drift(frames, first),
    }


def weigh(parts: dict[str, Tensor], weights: QualityWeights) -> Scores:
    """The weighted sum of the parts; one valid score per candidate."""
    values = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum(0)
    return Scores(values.float().cpu(), torch.ones(len(values), dtype=torch.bool))


def abstention(group: Group) -> Scores | None:
    """Scores without any valid one when the chunk shows only the given start image, else None."""
    size, count = group.frames_GF3hw.shape[:2]
    if count and count + group.past_frames_F3hw.shape[0] >= 2:
        return None
    return Scores(torch.zeros(size), torch.zeros(size, dtype=torch.bool))
