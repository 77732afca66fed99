"""Recordings as a reader learns from them: small frames in memory, and the commands between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.media.progress import progress
from worldcompass.media.video import read_video
from worldcompass.recordings import ReadActions, actions_in, read_recordings
from worldcompass.rewards.inverse_dynamics.panel import Panel
from worldcompass.rewards.inverse_dynamics.sight import read_frames, reading_size, resized
from worldcompass.types import Actions
from worldcompass.world import WorldSpec

LEAST = 5  # recordings
EVERY = 5  # of which one is held out
EVEN = 20.0  # most times that a rare latent counts for one axis


@dataclass(frozen=True)
class Footage:
    """One recording: F = 1 + K frames_per_latent frames and the commands of the K latents after the start."""

    name: str
    frames_F3hw: Tensor
    """uint8, in the size in which they are read."""
    ways_KTA: Tensor
    """float32: see ``Panel.ways``."""


def footage_of(name: str, frames_F3hw: Tensor, actions: Actions, spec: WorldSpec) -> Footage:
    """A recording from its frames, of any size, and its actions, that of the start included.

    What has no frames, or no command, is left out at the end.
    """
    lead = spec.first_latent_frames - 1
    latents = min(len(actions) - 1, (len(frames_F3hw) - lead - 1) // spec.frames_per_latent)
    frames = frames_F3hw[lead : lead + 1 + max(0, latents) * spec.frames_per_latent]
    ways = Panel.of(spec.actions).ways(actions.latents(1, 1 + max(0, latents)))
    return Footage(name, resized(frames, reading_size(spec.frame_size)), ways.cpu())


def read_footage(folder: Path, spec: WorldSpec, read: ReadActions = actions_in) -> list[Footage]:
    """The recordings of a folder, see ``worldcompass.recordings``, whole and in the order of their names.

    Raises:
        UserError: when one cannot be read or does not fit the world, or there are too few.
    """
    found, size = list[Footage](), reading_size(spec.frame_size)
    recordings = read_recordings(folder, spec, None, read)
    with progress("reading recordings", len(recordings)) as advance:
        for recording in recordings:
            needed = spec.num_frames(0, len(recording.actions))
            frames = read_video(recording.video, max_frames=needed, size=size)
            found.append(footage_of(recording.name, frames, recording.actions, spec))
            if not len(found[-1].ways_KTA):
                raise UserError(
                    f"{recording.video} shows no whole latent of {spec.frames_per_latent} frames after the start:"
                    " use a longer recording"
                )
            advance()
    if len(found) < LEAST:
        raise UserError(
            f"{folder} holds {len(found)} recordings: expected {LEAST} or more, as every {EVERY}th is held out"
        )
    return found


def split(footage: Sequence[Footage]) -> tuple[list[Footage], list[Footage]]:
    """Recordings to learn from, and every fifth, which is held out."""
    held_out = [one for number, one in enumerate(footage) if number % EVERY == EVERY - 1]
    return [one for number, one in enumerate(footage) if number % EVERY != EVERY - 1], held_out


@dataclass(frozen=True)
class Latents:
    """All N latents of some recordings."""

    frames_F3hw: Tensor
    """uint8: of all recordings, one after the other."""
    starts_N: Tensor
    """int64: the frame before each latent."""
    whose_N: Tensor
    """int64: its recording."""
    first_N: Tensor
    """int64: the first latent of its recording, and ..."""
    count_N: Tensor
    """int64: ... its number of latents."""
    ways_NTA: Tensor
    offsets: tuple[int, ...]
    """Frames that are read of each latent, from the one before it."""

    @staticmethod
    def of(footage: Iterable[Footage], frames_per_latent: int) -> Latents:
        """The latents of recordings, in order."""
        known = list(footage)
        lengths = torch.tensor([len(one.ways_KTA) for one in known])
        first = lengths.cumsum(0) - lengths
        whose = torch.arange(len(known)).repeat_interleave(lengths)
        inside = torch.arange(int(lengths.sum())) - first[whose]
        return Latents(
            torch.cat([one.frames_F3hw for one in known]),
            inside * frames_per_latent + (first * frames_per_latent + torch.arange(len(known)))[whose],
            whose,
            first[whose],
            lengths[whose],
            torch.cat([one.ways_KTA for one in known]),
            read_frames(frames_per_latent),
        )

    def __len__(self) -> int:
        return len(self.starts_N)

    def windows(self, index_B: Tensor) -> Tensor:
        """The frames that are read of some latents, uint8 (B, W, 3, h, w)."""
        return self.frames_F3hw[self.starts_N[index_B][:, None] + torch.tensor(self.offsets)]

    def near(self, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """For each of some latents another one of its recording, int64 (B,)."""
        places = torch.rand(len(index_B), generator=generator) * self.count_N[index_B]
        return self.first_N[index_B] + places.long()

    def some(self, index_B: Tensor) -> Latents:
        """Some of the latents."""
        names = ("starts_N", "whose_N", "first_N", "count_N", "ways_NTA")
        return replace(self, **{name: getattr(self, name)[index_B] for name in names})


def evenly(panel: Panel, ways_NTA: Tensor) -> Tensor:
    """How often to draw each latent so that no command is rare, (N,).

    What is hardly ever commanded, such as a button, would else hardly be learned.
    """
    signs, shares = panel.signs(ways_NTA) + 1, list[Tensor]()
    for axis in range(len(panel.axes)):
        own = signs[..., axis]
        counts = own.flatten().bincount(minlength=3)
        shares.append((own.numel() / (3 * counts.clamp_min(1)))[own].amax(-1))
    return torch.stack(shares, -1).clamp_max(EVEN).mean(-1)
