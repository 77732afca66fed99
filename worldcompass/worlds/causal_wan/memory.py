"""What finished latents leave behind for the next chunks, as values, and which of it a chunk sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldcompass.worlds.open.attention import KeyValues
from worldcompass.worlds.open.prope import Cameras
from worldcompass.worlds.open.rotary import Rotary, rotate


@dataclass(frozen=True)
class BlockKeys:
    """What one block keeps: of one row in a ``Kept``, otherwise with an axis of rows in front."""

    k_hNd: Tensor
    """Normalised keys of self-attention, neither rotated nor transformed."""
    v_hNd: Tensor
    action: tuple[Tensor, ...] = ()
    """What the block's module for actions keeps, (K, ...) each; none without one."""

    def of_row(self, row: int) -> BlockKeys:
        """Those of one row, as copies, so that no row keeps another's memory."""
        return BlockKeys(
            self.k_hNd[row].clone(), self.v_hNd[row].clone(), tuple(part[row].clone() for part in self.action)
        )


@dataclass(frozen=True)
class Kept:
    """What a finished chunk, or some of its latents, leaves behind."""

    first: int
    """Index of its first latent in the video."""
    num_latents: int
    blocks: tuple[BlockKeys, ...]
    cameras: Cameras | None
    """Of its latents, (K, 4, 4); None when the pass had no cameras."""

    def latents(self, start: int, stop: int) -> Kept:
        """The part with the latents ``start <= i < stop`` of the video; a view."""
        a, b = max(start - self.first, 0), min(stop - self.first, self.num_latents)
        if (a, b) == (0, self.num_latents):
            return self
        tokens = self.blocks[0].k_hNd.shape[1] // self.num_latents
        some = slice(a * tokens, b * tokens)
        blocks = tuple(
            BlockKeys(own.k_hNd[:, some], own.v_hNd[:, some], tuple(part[a:b] for part in own.action))
            for own in self.blocks
        )
        by = self.cameras
        cameras = by and Cameras(by.image_from_world_BK44[a:b], by.world_from_image_BK44[a:b])
        return Kept(self.first + a, b - a, blocks, cameras)

    def without_actions(self) -> Kept:
        """The same for self-attention alone."""
        return replace(self, blocks=tuple(replace(block, action=()) for block in self.blocks))


@dataclass(frozen=True)
class Past:
    """One past, as a pass reads it."""

    states_LE: Tensor
    """The encoder's states of the prompt or the start image."""
    visible: tuple[Kept, ...] = ()
    """What self-attention sees, in order of time."""
    visible_to_actions: tuple[Kept, ...] = ()
    """What the modules for actions see."""
    most_tokens: int | None = None
    """How many tokens self-attention sees at most, the newest ones; they may cut a latent in two."""


@dataclass(frozen=True)
class Window:
    """Which finished latents a chunk sees. Both numbers count like the official caches."""

    num_latents: int | None = None
    """Latents in view, those of the current chunk included; None for all."""
    sink: int = 0
    """The video's first latents that stay in view, within the same number."""

    def check(self, chunk: int) -> None:
        """Check that a chunk fits beside the sink; in the official cache it would overwrite it.

        Raises:
            ValueError: when it does not fit.
        """
        if self.num_latents is not None and self.num_latents < chunk + self.sink:
            raise ValueError(
                f"a window of {self.num_latents} latents holds no chunk of {chunk} beside a sink of {self.sink}:"
                f" expected {chunk + self.sink} latents or more"
            )

    def spans(self, num_latents: int, chunk: int) -> tuple[tuple[int, int], ...]:
        """The finished latents that a chunk sees, as (start, stop) in order of time.

        Args:
            num_latents: finished latents, after which the chunk begins.
            chunk: its length.
        """
        if self.num_latents is None or num_latents + chunk <= self.num_latents:
            spans = ((0, num_latents),)
        else:
            recent = self.num_latents - chunk - self.sink
            spans = ((0, self.sink), (num_latents - recent, num_latents))
        return tuple((start, stop) for start, stop in spans if start < stop)

    def view(self, kept: Sequence[Kept], num_latents: int, chunk: int) -> tuple[Kept, ...]:
        """The part of ``kept`` that a chunk sees, see ``spans``."""
        return tuple(
            part.latents(max(start, part.first), min(stop, part.first + part.num_latents))
            for start, stop in self.spans(num_latents, chunk)
            for part in kept
            if max(start, part.first) < min(stop, part.first + part.num_latents)
        )


@dataclass(frozen=True)
class Seen:
    """A past's visible latents with their rotations and cameras, which all blocks share."""

    past: Past
    rotary: Rotary
    cameras: Cameras | None

    @classmethod
    def of(cls, past: Past, table: Callable[[int, int], Rotary], by_camera: bool) -> Seen:
        """What a pass sees of a past with visible latents.

        Args:
            past: with visible latents.
            table: rotations of some latents, by the first one's index and their number.
            by_camera: whether the pass has cameras.

        Raises:
            ValueError: when the past has no cameras but the pass has, or the reverse, or tokens are counted too.
        """
        if {part.cameras is not None for part in past.visible} != {by_camera}:
            raise ValueError("expected cameras in all passes of a video or in none")
        if by_camera and past.most_tokens is not None:
            raise ValueError("a number of tokens cannot cut latents that have cameras: set it to None")
        tables = [table(part.first, part.num_latents) for part in past.visible]
        cos, sin = (torch.cat(values) for values in zip(*tables, strict=True))
        own = slice(None) if past.most_tokens is None else slice(-past.most_tokens, None)
        found = [part.cameras for part in past.visible if part.cameras is not None]
        cameras = Cameras(
            torch.cat([c.image_from_world_BK44 for c in found])[None],
            torch.cat([c.world_from_image_BK44 for c in found])[None],
        ) if found else None  # fmt: skip
        return cls(past, (cos[own], sin[own]), cameras)

    def keys(self, index: int) -> KeyValues:
        """A block's keys and values as attention reads them, (R, heads, tokens, head)."""
        kept = [part.blocks[index] for part in self.past.visible]
        k, v = torch.cat([b.k_hNd for b in kept], 1), torch.cat([b.v_hNd for b in kept], 1)
        if self.past.most_tokens is not None:
            k, v = k[:, -self.past.most_tokens :], v[:, -self.past.most_tokens :]
        found = both_branches(k[None], v[None], self.rotary, self.cameras)
        return found[0][:, 0], found[1][:, 0]

    def actions(self, index: int) -> tuple[Tensor, ...]:
        """What a block's module for actions kept of the latents that it sees, (latents, ...)."""
        kept = [part.blocks[index].action for part in self.past.visible_to_actions]
        return tuple(torch.cat(parts) for parts in zip(*kept, strict=True))


def both_branches(k_BhNd: Tensor, v_BhNd: Tensor, rotary: Rotary, by: Cameras | None) -> KeyValues:
    """Keys and values as attention reads them, (R, B, heads, N, head): rotated, then by cameras if any."""
    if by is None:
        return rotate(k_BhNd, rotary)[None], v_BhNd[None]
    return torch.stack([rotate(k_BhNd, rotary), by.keys(k_BhNd)]), torch.stack([v_BhNd, by.keys(v_BhNd)])
