"""Forgeries of a video: changes of its pixels that a good judge must notice, as pure functions.

Each takes uint8 sRGB frames (F, 3, h, w), a strength and a generator, and returns new frames of the same shape and
type. Strength 0 returns the pixels unchanged. Each function says the unit of its strength. Functions that need no
randomness ignore the generator.

``worldcompass.audit.degradations`` are lies for a critic of single chunks, with strengths in shares of the worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

Forge = Callable[[Tensor, float, torch.Generator], Tensor]
"""(frames_F3hw, strength, generator) -> frames_F3hw."""

STRIPE = 4  # pixels: width of a pasted stripe
SHARPEN_RADIUS = 1.0  # pixels: standard deviation of the unsharp mask


def blurred(frames_F3hw: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Gaussian blur; the strength is its standard deviation in pixels.

    Raises:
        ValueError: for other frames than uint8 (F, 3, h, w), or a strength below 0. So do all forgeries.
    """
    _check(frames_F3hw, strength)
    return frames_F3hw.clone() if strength == 0 else _uint8(_gaussian(frames_F3hw, strength))


def sharpened(frames_F3hw: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Unsharp mask of radius 1 pixel; the strength is the share of the removed detail that is added."""
    _check(frames_F3hw, strength)
    detail = frames_F3hw.float() - _gaussian(frames_F3hw, SHARPEN_RADIUS)
    return _uint8(frames_F3hw.float() + strength * detail)


def contrasted(frames_F3hw: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """More contrast around the video's mean level; strength 0.2 multiplies it by 1.2."""
    _check(frames_F3hw, strength)
    frames = frames_F3hw.float()
    middle = frames.mean()
    return _uint8(middle + (1 + strength) * (frames - middle))


def grainy(frames_F3hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Grain that is drawn anew in every frame; the strength is its standard deviation in levels of 255."""
    _check(frames_F3hw, strength)
    return _uint8(frames_F3hw.float() + strength * torch.randn(frames_F3hw.shape, generator=generator))


def saturated(frames_F3hw: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Stronger colours around each pixel's grey; strength 0.5 multiplies them by 1.5."""
    _check(frames_F3hw, strength)
    frames = frames_F3hw.float()
    grey = frames.mean(1, keepdim=True)
    return _uint8(grey + (1 + strength) * (frames - grey))


def speckled(frames_F3hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Black and white pixels, drawn anew in every frame; the strength is their share."""
    _check(frames_F3hw, strength)
    shape = (len(frames_F3hw), 1, *frames_F3hw.shape[-2:])
    spots = torch.rand(shape, generator=generator) < strength
    white = torch.rand(shape, generator=generator) < 0.5
    return torch.where(spots, torch.where(white, 255, 0), frames_F3hw.int()).to(torch.uint8)


def frozen(frames_F3hw: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """The end of the video stands still; the strength is its share, at most 1."""
    _check(frames_F3hw, strength)
    moving = max(1, round((1 - min(strength, 1.0)) * len(frames_F3hw)))
    still = frames_F3hw[moving - 1].expand(len(frames_F3hw) - moving, -1, -1, -1)
    return torch.cat([frames_F3hw[:moving], still])


def repeated(frames_F3hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Some frames show the frame before them again; the strength is their share."""
    _check(frames_F3hw, strength)
    lost = torch.rand(len(frames_F3hw), generator=generator) < strength
    lost[:1] = False
    index = torch.where(lost, 0, torch.arange(len(frames_F3hw))).cummax(0).values
    return frames_F3hw[index]


def striped(foreign_F3hw: Tensor) -> Forge:
    """A forgery that pastes vertical stripes of another video; the strength is the share of columns, at most 1."""

    def paste(frames_F3hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        _check(frames_F3hw, strength)
        width = frames_F3hw.shape[-1]
        edges = torch.rand(-(-width // STRIPE), generator=generator).repeat_interleave(STRIPE)[:width]
        return torch.where(edges < strength, foreign_F3hw[: len(frames_F3hw)], frames_F3hw)

    return paste


FORGERIES: Mapping[str, Forge] = {
    "blurred": blurred,
    "sharpened": sharpened,
    "contrasted": contrasted,
    "grainy": grainy,
    "saturated": saturated,
    "speckled": speckled,
    "frozen": frozen,
    "repeated": repeated,
}
FULL: Mapping[str, float] = {
    "blurred": 1.5,
    "sharpened": 1.5,
    "contrasted": 0.3,
    "grainy": 8.0,
    "saturated": 0.6,
    "speckled": 0.01,
    "frozen": 0.6,
    "repeated": 0.6,
    "striped": 0.3,
}
"""Full strength of each, in its own unit; a judge must notice it. ``striped`` needs another video."""
THIRDS = (1 / 3, 2 / 3, 1.0)
"""Shares of the full strength at which a judge is tried."""


def forge(frames_F3hw: Tensor, steps: Mapping[str, float], generator: torch.Generator) -> Tensor:
    """Several forgeries one after the other.

    Args:
        frames_F3hw: uint8 sRGB.
        steps: strengths by names of ``FORGERIES``, in the order of their application.
        generator: of the random ones.

    Raises:
        ValueError: for an unknown name, and as the forgeries.
    """
    for name, strength in steps.items():
        if name not in FORGERIES:
            raise ValueError(f"there is no forgery {name!r}: expected one of {', '.join(FORGERIES)}")
        frames_F3hw = FORGERIES[name](frames_F3hw, strength, generator)
    return frames_F3hw


def _check(frames: Tensor, strength: float) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(
            f"expected uint8 frames (F, 3, h, w), got {frames.dtype} {tuple(frames.shape)}: convert them"
        )
    if not 0 <= strength < math.inf:
        raise ValueError(f"expected a strength of 0 or more, got {strength}")


def _gaussian(frames_F3hw: Tensor, sigma: float) -> Tensor:
    """Blurred frames, float32; borders are mirrored."""
    pictures = frames_F3hw.movedim(1, -1).float().cpu().numpy()
    smooth = [cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures]
    return torch.from_numpy(np.stack(smooth)).movedim(-1, 1).to(frames_F3hw.device)


def _uint8(frames: Tensor) -> Tensor:
    return frames.round().clamp(0, 255).to(torch.uint8)
