"""The memory of a small world: P pasts as a value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worldcompass.types import Actions
from worldcompass.worlds.small.autoencoder import Look
from worldcompass.worlds.small.transformer import Command, Prefix, Rotary


@dataclass(frozen=True)
class Remembered:
    """Keys of one finished chunk of every past."""

    keys: Prefix
    """Per block: keys without rotary embedding and values, (P, heads, K * tokens, head)."""
    actions: Actions
    """(P, K)."""
    latents_PCKHW: Tensor

    def __len__(self) -> int:
        return self.latents_PCKHW.shape[2]

    def select(self, rows: slice) -> Remembered:
        """Some of the pasts."""
        keys = [(k[rows], v[rows]) for k, v in self.keys]
        return Remembered(keys, self.actions.select(rows), self.latents_PCKHW[rows])


@dataclass(frozen=True)
class Attended:
    """What was prepared for the coming chunk."""

    given_K: Tensor
    command: Command
    """(P, K, ...) each."""
    look_P: Look
    """Of the last finished latent."""
    seen_PDKyx: Tensor
    """The world's views, see ``SmallWorld.views``."""
    rotary: Rotary
    """Of the chunk's own tokens, (P, 1, K * tokens, head / 2)."""
    prefix: Prefix | None
    """Keys and values of the past that the chunk may see, with their rotary embedding."""
    temperature: float = 1.0
    """See ``Inputs``."""

    def select(self, rows: slice) -> Attended:
        """Some of the pasts."""
        prefix = self.prefix and [(k[rows], v[rows]) for k, v in self.prefix]
        rotary = (self.rotary[0][rows], self.rotary[1][rows])
        command = tuple(x[rows] for x in self.command)
        return replace(
            self,
            command=command,
            look_P=self.look_P.select(rows),
            seen_PDKyx=self.seen_PDKyx[rows],
            rotary=rotary,
            prefix=prefix,
        )


@dataclass(frozen=True)
class SmallContext:
    """P pasts: keys per chunk, the last latent (the decoder's whole memory) and its action."""

    last_PCHW: Tensor
    """The last finished latent; the start image's before the first chunk."""
    last: Actions
    """(P, 1): of that latent."""
    num_latents: int = 0
    history: tuple[Remembered, ...] = ()
    attended: Attended | None = None

    @property
    def num_pasts(self) -> int:
        """P."""
        return len(self.last_PCHW)

    @property
    def given_K(self) -> Tensor | None:
        """Which latents of the coming chunk are given; None before ``attend``."""
        return self.attended.given_K if self.attended else None

    def older(self) -> tuple[Tensor, Actions] | None:
        """All finished latents in memory before the last one, (P, C, M, H, W), and their actions."""
        count = sum(len(chunk) for chunk in self.history)
        if count < 2:
            return None
        latents = torch.cat([chunk.latents_PCKHW for chunk in self.history], 2)
        return latents[:, :, :-1], Actions.join([h.actions for h in self.history]).latents(0, count - 1)

    def select(self, row: int) -> SmallContext:
        """The context of one past alone."""
        rows = slice(row, row + 1)
        history = tuple(h.select(rows) for h in self.history)
        attended = self.attended and self.attended.select(rows)
        last = self.last.select(rows)
        return SmallContext(self.last_PCHW[rows], last, self.num_latents, history, attended)


def attended_for(context: SmallContext, count: int) -> Attended:
    """What was prepared for a chunk of so many latents.

    Raises:
        ValueError: when the context was not attended for one.
    """
    if context.attended is None or len(context.attended.given_K) != count:
        attended = context.attended
        have = "not attended" if attended is None else f"attended for {len(attended.given_K)} latents"
        raise ValueError(f"the context is {have}, the chunk has {count}: call attend(context, actions) first")
    return context.attended


def bounded(history: tuple[Remembered, ...], most: int) -> tuple[Remembered, ...]:
    """Let the oldest chunks after the first go when there are more than ``most`` latents."""
    while sum(len(chunk) for chunk in history) > most:
        history = (history[0], *history[2:])
    return history


def needed(history: tuple[Remembered, ...], chosen_PN: Tensor) -> tuple[tuple[Remembered, ...], Tensor]:
    """The finished chunks that hold a chosen latent of any past, and the choice counted in those alone."""
    chunk_M = torch.cat([torch.full((len(h),), i) for i, h in enumerate(history)])
    chosen = chosen_PN.cpu()
    wanted = torch.zeros(len(history), dtype=torch.bool)
    wanted[chunk_M[chosen]] = True
    kept_M = wanted[chunk_M]
    index = (kept_M.cumsum(0) - 1)[chosen].to(chosen_PN.device)
    return tuple(h for h, want in zip(history, wanted.tolist(), strict=True) if want), index
