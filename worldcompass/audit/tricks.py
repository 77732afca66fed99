"""Tricks: ways in which a policy could get high scores from rubbish, each controlled by genes.

A trick lies about the motion (commands are not followed), about the pictures (they do not show the world), or about
both. A critic of one need not notice a lie about the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from worldcompass.audit.clips import Clip, signs_of
from worldcompass.types import CameraMoves

NUM_GENES = 10
"""Each about in [-1, 1]: coarseness, contrast, brightness and colour (three) of a painting, and motion (four)."""
SLIDE = 0.25  # largest shift per frame, in half widths
ZOOM = 0.06  # largest change of size per frame
CANVAS = 96  # pixels along a side of a painted texture; a frame shows half of it
TEXTURE_CELLS, FIELD_CELLS = (4, 24), (2, 4)  # spots along a side of the coarsest and the finest painting

CAMERA_SHOWS = ("right", "zoom", "turn", "down")
"""How the picture of each axis of a camera's commands moves, see ``clips.signs_of``."""
ARM_SHOWS = ("right", "zoom", "down", "turn")
"""The same for an arm with x, y, z and an opening."""

Paint = Callable[[Tensor, Clip, torch.Generator], Tensor]
"""(genes (NUM_GENES,), clip, generator) -> frames (F, 3, h, w) uint8."""


@dataclass(frozen=True)
class Trick:
    """One way to make rubbish."""

    name: str
    paint: Paint
    lies_about_motion: bool
    lies_about_pictures: bool
    may_hit: bool = True
    """Whether it can match the truth by chance, so that clips close to the engine's frames do not count."""


def sliding_texture(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """A texture that slides and zooms independently of the commands."""
    steady = torch.stack([SLIDE * genes[6], SLIDE * genes[7], ZOOM * genes[8]]).clamp(-SLIDE, SLIDE)
    window = (0.5, 0.4)
    return _moved(
        _painted(genes, TEXTURE_CELLS, generator), steady.expand(len(clip.frames_F3hw), 3), clip, window
    )


def obedient_texture(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """A texture that slides and zooms as commanded."""
    return _moved(_painted(genes, TEXTURE_CELLS, generator), _as_commanded(genes, clip), clip, (0.5, 0.4))


def obedient_colours(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """Fields of colour without detail that move as commanded."""
    return _moved(_painted(genes, FIELD_CELLS, generator), _as_commanded(genes, clip), clip, (0.5, 0.4))


def panned_picture(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """The last frame before the clip, shifted and zoomed as commanded; without depth, and mirrored at its edges."""
    return _moved(clip.past_F3hw[-1:].float(), _as_commanded(genes, clip), clip, (1.0, 1.0))


def frozen_picture(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """One of the frames before the clip, frozen."""
    index = round((1 - float(genes[6].abs().clamp_max(1))) * (len(clip.past_F3hw) - 1))
    return clip.past_F3hw[index].expand(len(clip.frames_F3hw), -1, -1, -1)


def replayed(genes: Tensor, clip: Clip, generator: torch.Generator) -> Tensor:
    """True latents of this video in another order, forwards or backwards, none of which follows its command.

    One latent may repeat in a loop. When every latent of the video follows the command, the last frame freezes.
    """
    video = torch.cat([clip.past_F3hw, clip.frames_F3hw])
    signs = torch.cat([signs_of(clip.past_actions), signs_of(clip.actions)])
    sources = [(k, False) for k in range(1, len(signs))] + [(k, True) for k in range(1, len(signs))]
    parts, size = [], clip.frames_per_latent
    for latent, commanded in enumerate(signs_of(clip.actions)):
        wrong = [s for s in sources if not torch.equal(-signs[s[0]] if s[1] else signs[s[0]], commanded)]
        if not wrong:
            parts.append(clip.past_F3hw[-1:].expand(size, -1, -1, -1))
            continue
        chosen, back = wrong[int((float(genes[6 + latent % 4].clamp(-1, 0.999)) + 1) / 2 * len(wrong))]
        first = size * (chosen - 1)
        parts.append(video[first : first + size].flip(0) if back else video[first + 1 : first + size + 1])
    return torch.cat(parts)


TRICKS = (
    Trick("sliding texture", sliding_texture, True, True),
    Trick("obedient texture", obedient_texture, False, True),
    Trick("obedient colours", obedient_colours, False, True),
    Trick("panned picture", panned_picture, False, False),
    Trick("frozen picture", frozen_picture, True, False, may_hit=False),
    Trick("replayed latents", replayed, True, False, may_hit=False),
)


def _painted(genes: Tensor, cells: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random picture (1, 3, CANVAS, CANVAS), float."""
    low, high = cells
    coarse = round(low + (high - low) * (1 + float(genes[0].clamp(-1, 1))) / 2)
    texture = interpolate(
        torch.randn(1, 3, coarse, coarse, generator=generator), (CANVAS, CANVAS), mode="bicubic"
    )
    texture = texture * (1 + genes[1].clamp(-1, 1)) * 45 + 128 + 80 * genes[2].clamp(-1, 1)
    return texture + 40 * genes[3:6].clamp(-1, 1).view(1, 3, 1, 1)


def _as_commanded(genes: Tensor, clip: Clip) -> Tensor:
    """Shift right, shift down and zoom of every frame, (F, 3); genes set their sizes and signs."""
    signs_FA = signs_of(clip.actions).repeat_interleave(clip.frames_per_latent, 0)
    shows = CAMERA_SHOWS if isinstance(clip.actions, CameraMoves) else ARM_SHOWS
    sideways, turn, tilt, walk = genes[6:10].clamp(-1, 1)
    factors = {"right": SLIDE * sideways, "turn": SLIDE * turn, "down": SLIDE * tilt, "zoom": ZOOM * walk}
    moved = dict.fromkeys(shows, torch.zeros(len(signs_FA)))  # a world may have fewer axes, or more
    for way, signs_F in zip(shows, signs_FA.unbind(-1), strict=False):
        moved[way] = factors[way] * signs_F
    return torch.stack([moved["right"] + moved["turn"], moved["down"], moved["zoom"]], 1)


def _moved(picture_13hw: Tensor, steps_F3: Tensor, clip: Clip, window: tuple[float, float]) -> Tensor:
    """Frames of a moving picture through a window with the given half width and half height; edges are mirrored."""
    height, width = clip.frames_F3hw.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-window[1], window[1], height),
        torch.linspace(-window[0], window[0], width),
        indexing="ij",
    )
    shifts_F3 = steps_F3.cumsum(0)
    scale = torch.exp(-shifts_F3[:, 2])[:, None, None]
    grid = torch.stack([x * scale - shifts_F3[:, 0, None, None], y * scale - shifts_F3[:, 1, None, None]], -1)
    frames = grid_sample(
        picture_13hw.expand(len(grid), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
    return frames.round().clamp(0, 255).to(torch.uint8)
