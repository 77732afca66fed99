"""Frames of recordings with the truth, and their spoilt copies, for the critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, pixel_shuffle, pixel_unshuffle

from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.critics.reader import CELL, GRID, MIDDLE, SPOT, middles_of
from worldcompass.worlds.hands.facts import NOMINAL, STEP, THINGS
from worldcompass.worlds.hands.recording import HandsEpisode
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.view import project
from worldcompass.worlds.small.data import Shard
from worldcompass.worlds.small.linear import LinearCode

FRAMES_EACH = 40  # frames of every episode
SPOILT = 0.35  # share of frames that each kind of damage hits
CODED = 0.6  # share of frames that go through the autoencoder
FAR = 80.0  # exponent of a cell far from a spot: numbers even closer to 0 are slow
MUSH = 0.12  # share of frames that show nothing, for the reader
MUSHES = ("noise", "flat", "deep blur", "shuffled", "blended", "noise on blur")
"""What they are made of, see ``mushes``."""


@dataclass(frozen=True)
class Labelled:
    """B frames with what is true of them."""

    frames_B3hw: Tensor
    """uint8"""
    drawn_B3hw: Tensor
    """uint8: the same moments as the world draws them, or once more the frames."""
    near_B: Tensor
    """int64: the row of another frame of the same episode."""
    grip_B4: Tensor
    """Steps from the middle of the gripper's range."""
    present_BT: Tensor
    """bool"""
    cell_BT2: Tensor
    """Column and row of each thing's middle on the grid of the maps."""
    colour_BT3: Tensor
    """Its red, green and blue."""
    height_BT: Tensor
    """Its middle's height, in steps."""

    def pick(self, index: Tensor) -> Labelled:
        """Some of the rows; ``near_B`` still counts in all of them."""
        return Labelled(*(getattr(self, field.name)[index] for field in fields(self)))


@lru_cache(maxsize=8192)
def colours_of(split: str, number: int) -> np.ndarray:
    """Red, green and blue of each kind in a scene, float32 (T, 3); 0 for kinds that it does not have."""
    hues = looks.HUES | looks.UNSEEN_HUES
    placed = [scene(split, number).placed(kind) for kind in THINGS]
    return np.array([looks.rgb(hues[p.colour]) if p else (0, 0, 0) for p in placed], np.float32)


Drawing = Callable[[HandsEpisode, np.ndarray], Tensor]
"""(episode, frames (N,)) -> these moments as the world draws them, uint8 (N, 3, h, w)."""


def labelled(
    shards: Sequence[Shard[HandsEpisode]], split: str, rng: np.random.Generator, each: int = FRAMES_EACH,
    draw: Drawing | None = None,
) -> Labelled:  # fmt: skip
    """``each`` random frames of every episode of a split's recordings, and if asked as the world draws them."""
    drawings: list[Tensor] = []
    parts: list[list[np.ndarray]] = []
    count = 0
    for shard in shards:
        for episode in shard:
            chosen = np.sort(rng.permutation(len(episode.frames_Fhw3))[:each])
            if draw:
                drawings.append(draw(episode, chosen))
            middles = middles_of(episode.things_FT7[chosen])
            pixels = project(middles.reshape(-1, 3)).reshape(*middles.shape[:2], 2)
            whose = np.ones(len(chosen), int)[:, None]
            parts.append(
                [
                    episode.frames_Fhw3[chosen],
                    count + rng.permutation(len(chosen)),
                    (episode.grip_F4[chosen] - MIDDLE) / NOMINAL,
                    whose.astype(bool) & episode.present_T,
                    (pixels - (CELL - 1) / 2) / CELL,
                    whose[..., None] * colours_of(split, int(episode.number)),
                    middles[..., 2] / STEP,
                ]
            )
            count += len(chosen)
    whole = [torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)]
    frames, near, grip, present, *others = whole
    frames = frames.movedim(-1, 1)
    shown = torch.cat(drawings) if drawings else frames
    return Labelled(frames, shown, near, grip.float(), present, *(part.float() for part in others))


def spots_of(batch: Labelled) -> Tensor:
    """True spots (B, T, y, x); none of kinds that are not there."""
    rows, columns = (torch.arange(size).float() for size in GRID)
    across = (columns - batch.cell_BT2[..., :1]).square()
    down = (rows - batch.cell_BT2[..., 1:]).square()
    spots = (-((across[..., None, :] + down[..., :, None]) / (2 * SPOT**2)).clamp_max(FAR)).exp()
    return spots * batch.present_BT[..., None, None]


def spoil(
    frames_BS3hw: Tensor, near_BS3hw: Tensor, code: LinearCode, generator: torch.Generator, mush: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Frames in [0, 1] with the faults of imagined pictures, and which of B show nothing any more.

    Faults are those of the autoencoder with noisy latents, of blur, grain and tint, and of a ghost of another
    moment. The S frames of a row share their faults' strengths.

    Args:
        frames_BS3hw: uint8
        near_BS3hw: uint8, of the other moments.
        code: of the autoencoder.
        generator: of the strengths.
        mush: share of rows that show nothing (``mushed``).
    """
    frames, near = frames_BS3hw.float() / 255, near_BS3hw.float() / 255
    count, size = frames.shape[:2]

    def some(share: float) -> Tensor:
        return (torch.rand(count, generator=generator) < share).nonzero()[:, 0]

    def drawn(rows: Tensor, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(rows), 1, *(shape or (1, 1, 1)), generator=generator)

    def noise(of: Tensor) -> Tensor:
        return torch.randn(of.shape, generator=generator)

    rows = some(SPOILT)
    frames[rows] = torch.lerp(frames[rows], near[rows], drawn(rows, 0, 0.35))
    rows = some(CODED)
    latents = code.encode(frames[rows].flatten(0, 1)).unflatten(0, (-1, size))
    latents = latents + drawn(rows, 0, 0.25) * noise(latents)
    frames[rows] = code.decode(latents.flatten(0, 1)).unflatten(0, (-1, size))
    rows, sigma = some(SPOILT), 0.3 + float(torch.rand((), generator=generator))
    frames[rows] = blurred(frames[rows].flatten(0, 1), sigma).unflatten(0, (-1, size))
    rows = some(SPOILT)
    frames[rows] += drawn(rows, 0, 0.06) * noise(frames[rows])
    rows = some(SPOILT)
    frames[rows] = frames[rows] * drawn(rows, 0.9, 1.1) + drawn(rows, -0.05, 0.05, 3, 1, 1)
    gone = torch.zeros(count, dtype=torch.bool)
    gone[some(mush)] = True
    if bool(gone.any()):
        frames[gone] = mushed(frames[gone].flatten(0, 1), generator).unflatten(0, (-1, size))
    return frames.clamp(0, 1), gone


def mushed(frames_B3hw: Tensor, generator: torch.Generator) -> Tensor:
    """One of ``mushes`` for each picture."""
    kinds = mushes(frames_B3hw, generator)
    count = len(frames_B3hw)
    chosen = torch.randint(len(kinds), (count,), generator=generator)
    return kinds[chosen, torch.arange(count)]


def mushes(frames_B3hw: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures that show nothing, made of pictures in [0, 1]; (kinds, B, 3, h, w) in the order of ``MUSHES``.

    Four neighbours of the batch are blended: they must come from different scenes.
    """
    count = len(frames_B3hw)
    noise = torch.rand(frames_B3hw.shape, generator=generator)
    flat = torch.rand(count, 3, 1, 1, generator=generator).expand_as(frames_B3hw)
    deep = blurred(frames_B3hw, 7.0)
    cells = pixel_unshuffle(frames_B3hw, 8).flatten(2)
    order = torch.randperm(cells.shape[-1], generator=generator)
    shuffled = pixel_shuffle(cells[..., order].unflatten(-1, (8, 8)), 8)
    many = torch.stack([frames_B3hw.roll(i, 0) for i in range(4)]).mean(0)
    return torch.stack([noise, flat, deep, shuffled, many, 0.3 * deep + 0.7 * noise])


def blurred(frames_B3hw: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, sigma in pixels."""
    half = max(1, round(2.5 * sigma))
    offsets = torch.arange(-half, half + 1).float()
    line = (-offsets.square() / (2 * sigma**2)).exp()
    kernel = (line / line.sum()).expand(3, 1, 1, -1)
    padded = pad(frames_B3hw, (half,) * 4, mode="replicate")
    return conv2d(conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
