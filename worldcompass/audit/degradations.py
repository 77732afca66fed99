"""Degradations of a clip, as pure functions on its frames; engine truth makes each result a known lie.

Each takes the clip's frames, the frames before it and a strength in (0, 1], and returns as many uint8 frames.
``MOTION`` lie about the camera: pictures are perfect, but commands are not followed. ``PICTURE`` do the reverse.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from worldcompass.judging.forgeries import FORGERIES, FULL

Degrade = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""(frames_F3hw, past_F3hw, strength, generator) -> frames_F3hw."""

COLOUR_SHIFT = 60.0  # levels of 255 at full strength
NOISE = 40.0  # standard deviation at full strength
BLUR = 8  # pixels: side of the largest box, applied twice


def _uint8(frames: Tensor) -> Tensor:
    return frames.round().clamp(0, 255).to(torch.uint8)


def frozen(frames: Tensor, past: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """The last part of the clip is frozen."""
    moving = round((1 - strength) * len(frames))
    still = frames[moving - 1] if moving else (past[-1] if len(past) else frames[0])
    return torch.cat([frames[:moving], still.expand(len(frames) - moving, -1, -1, -1)])


def mirrored(frames: Tensor, past: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Left and right are swapped."""
    return frames.flip(-1)


def backwards(frames: Tensor, past: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Played in reverse."""
    return frames.flip(0)


def hurried(frames: Tensor, past: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Played up to three times as fast, then frozen."""
    index = (torch.arange(len(frames)) * (1 + 2 * strength)).long().clamp_max(len(frames) - 1)
    return frames[index]


def dropped(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Some frames are replaced by the frame before."""
    lost = torch.rand(len(frames), generator=generator) < 0.8 * strength
    lost[0] = False
    index = torch.where(lost, 0, torch.arange(len(frames))).cummax(0).values
    return frames[index]


def blurred(frames: Tensor, past: Tensor, strength: float, _: torch.Generator) -> Tensor:
    """Blurred by two passes of a box filter."""
    size = max(2, round(BLUR * strength))
    result = frames.float()
    for _pass in range(2):
        before, after = (size - 1) // 2, size // 2
        result = avg_pool2d(pad(result, (before, after, before, after), mode="replicate"), size, 1)
    return _uint8(result)


def noisy(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Grain that changes from frame to frame."""
    return _uint8(frames + NOISE * strength * torch.randn(frames.shape, generator=generator))


def tinted(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A colour cast grows from frame to frame."""
    shift = torch.randn(3, generator=generator)
    rising = torch.linspace(0, 1, len(frames)).view(-1, 1, 1, 1)
    return _uint8(frames + COLOUR_SHIFT * strength * rising * (shift / shift.abs().max()).view(3, 1, 1))


def flickering(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness jumps from frame to frame."""
    gain = 1 + 0.5 * strength * torch.randn(len(frames), 1, 1, 1, generator=generator)
    return _uint8(frames * gain)


def shuffled(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The frames in any order."""
    return frames[torch.randperm(len(frames), generator=generator)]


MOTION: dict[str, Degrade] = {
    "frozen": frozen,
    "mirrored": mirrored,
    "backwards": backwards,
    "hurried": hurried,
}
PICTURE: dict[str, Degrade] = {
    "blurred": blurred,
    "noisy": noisy,
    "tinted": tinted,
    "flickering": flickering,
    "dropped": dropped,
}


def _forged(name: str) -> Degrade:
    """A forgery of ``worldcompass.judging.forgeries``; strength 1 is the one that a judge must notice."""

    def degrade(frames: Tensor, past: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        return FORGERIES[name](frames, strength * FULL[name], generator)

    return degrade


FORGED: dict[str, Degrade] = {
    name: _forged(name) for name in ("sharpened", "contrasted", "saturated", "grainy", "speckled")
}
"""What a policy does to please a critic that asks for detail."""
STRENGTHS = (0.25, 0.5, 1.0)
WITHOUT_STRENGTH = ("mirrored", "backwards")
