"""Causal Wan2.1 as a ``WorldModel``: what minWM, Matrix-Game 2 and ForgeWM have in common.

The past is a tuple of what each finished chunk left behind, see ``memory``. A chunk is remembered by one more pass
at timestep 0, by the weights that imagined it. What it leaves behind depends on the window at that time, so a past
can only be rebuilt chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs
from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.causal_wan.memory import Kept, Past, Window
from worldcompass.worlds.causal_wan.network import CausalWan, Latents
from worldcompass.worlds.open.decoder import Decoder, decode_candidates, encode_videos
from worldcompass.worlds.open.pasts import Pasts, rows_per_past

HIGHEST_TIMESTEP = 1000.0  # of noise alone


@dataclass(frozen=True)
class Start:
    """Everything but the commands that one past starts from, on the network's device."""

    states: tuple[Tensor, ...]
    """The encoder's states (L, E) of the prompt or the start image; with guidance also of the weak condition."""
    given_CMHW: Tensor | None = None
    """Latents of a given video, whole chunks of them."""
    other: Any = None
    """Further conditions that the head reads."""


class Head(Protocol):
    """The part in which the families differ: what a past starts from, and what actions are to the network."""

    def start(self, scenario: Scenario, device: torch.device) -> Start:
        """Read a scenario's conditioning.

        Raises:
            UnfitInputs: when it is missing or does not fit.
        """
        ...

    def inputs(self, chunk: Chunk) -> Latents:
        """The network's input for a chunk, finished or noisy."""
        ...


@dataclass(frozen=True)
class Chunk:
    """A chunk of B rows, as a head gets it."""

    latents_BCKHW: Tensor
    """float32."""
    timesteps_BK: Tensor
    first: int
    """Index of the first latent in the video."""
    actions: Actions
    """(B, K)."""
    before: Actions | None
    """Commands of all latents before the chunk, (B, first); None at the beginning."""
    starts: tuple[Start, ...]
    """Of every row."""


@dataclass(frozen=True)
class _Past:
    start: Start
    kept: tuple[tuple[Kept, ...], ...]
    """What finished chunks left behind, for each of ``start.states``."""
    decoder: Any = None
    """The decoder's memory."""


@dataclass(frozen=True)
class _Attended:
    given_K: Tensor
    given_PCKHW: Tensor | None
    actions: Actions
    """(P, K)."""
    sides: tuple[tuple[Past, ...], ...]
    """The pasts as the network reads them, for each of ``Start.states``."""

    def select(self, row: int) -> _Attended:
        one = slice(row, row + 1)
        given = None if self.given_PCKHW is None else self.given_PCKHW[one]
        return _Attended(
            self.given_K, given, self.actions.select(one), tuple(side[one] for side in self.sides)
        )


@dataclass(frozen=True)
class CausalWanContext(Pasts[_Past, _Attended]):
    """P pasts with their conditions, what finished chunks left behind, commands and decoder memory."""

    actions: Actions | None = None
    """Commands of the finished latents, (P, num_latents)."""

    def select(self, row: int) -> Self:
        """The context of a single past."""
        actions = None if self.actions is None else self.actions.select(slice(row, row + 1))
        return replace(super().select(row), actions=actions)


class CausalWanWorld:
    """Implements ``WorldModel[CausalWanContext]``; see there for shapes and meaning.

    Args:
        spec: facts about the world.
        net: the network.
        decoder: turns latents into frames.
        head: reads conditions and actions.
        window: latents that self-attention sees.
        action_window: latents that modules for actions see; the same as self-attention when None.
        most_tokens: tokens that self-attention sees at most, those of the chunk included; None for all in view.
        scale: of guidance against the second of ``Start.states``, only for play; with gradients it raises an error.
    """

    def __init__(
        self,
        spec: WorldSpec,
        net: CausalWan,
        decoder: Decoder,
        head: Head,
        window: Window,
        action_window: Window | None = None,
        scale: float | None = None,
        most_tokens: int | None = None,
    ) -> None:
        self.spec: WorldSpec = spec
        self.net, self.decoder, self.head, self.scale = net, decoder, head, scale
        self.window, self.action_window = window, action_window or window
        self.most_tokens, chunk = most_tokens, max(spec.chunk_lengths)
        for seen in (self.window, self.action_window):
            seen.check(chunk)
        if most_tokens is not None and most_tokens <= self._tokens(chunk):
            raise ValueError(
                f"{most_tokens} tokens in view leave none of the past: a chunk alone has {self._tokens(chunk)}"
            )

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> CausalWanContext:
        """Read prepared conditioning; no pass through the network.

        Raises:
            UnfitInputs: when conditioning is missing or does not fit, or when only some scenarios have a video.
        """
        starts = [self.head.start(scenario, self._device) for scenario in scenarios]
        given = {0 if start.given_CMHW is None else start.given_CMHW.shape[1] for start in starts}
        if len(given) > 1:
            raise UnfitInputs(
                f"the scenarios of one batch give {sorted(given)} latents of video: give each the same number"
            )
        return CausalWanContext(tuple(_Past(start, ((),) * len(start.states)) for start in starts))

    @torch.no_grad()
    def attend(
        self,
        context: CausalWanContext,
        actions: Actions,
        generators: Sequence[torch.Generator] | None = None,
    ) -> CausalWanContext:
        """Choose what the next chunk sees; no pass through the network.

        Raises:
            ValueError: for a chunk of another length than the model's.
        """
        length = len(actions)
        if length not in self.spec.chunk_lengths:
            wanted = " or ".join(map(str, self.spec.chunk_lengths))
            raise ValueError(f"{self.spec.name} imagines chunks of {wanted} latents, not {length}")
        given = self._given(context, length)
        mask = torch.full((length,), given is not None, device=self._device)
        return replace(context, attended=_Attended(mask, given, actions, self._sides(context, length)))

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: CausalWanContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``; uses the commands that ``attend`` got.

        Raises:
            ValueError: without ``attend`` for this length, or with both guidance and gradients.
        """
        attended, noisy = context.attended_for(noisy_BCKHW.shape[2]), noisy_BCKHW.float()
        rows = rows_per_past(len(noisy), context.num_pasts)
        if attended.given_PCKHW is not None:
            return attended.given_PCKHW.repeat_interleave(rows, 0)
        timesteps = (HIGHEST_TIMESTEP * sigma_B.float())[:, None].expand(-1, noisy.shape[2])
        chunk = self._chunk(noisy, timesteps, attended.actions, context)
        flow = self._flow(self.head.inputs(chunk), attended.sides)
        return noisy - sigma_B.float().view(-1, 1, 1, 1, 1) * flow

    @torch.no_grad()
    def remember(self, context: CausalWanContext, clean_PCKHW: Tensor, actions: Actions) -> CausalWanContext:
        """Append a finished chunk by a pass at timestep 0, and update the decoder's memory."""
        clean, length = clean_PCKHW.float(), len(actions)
        timesteps = clean.new_zeros(len(clean), length)
        inputs = self.head.inputs(self._chunk(clean, timesteps, actions, context))
        sides = [self.net(inputs, pasts, keep=True) for pasts in self._sides(context, length)]
        finished = context.num_latents + length
        pasts = [
            replace(
                past,
                kept=tuple(
                    self._needed((*kept, side[row]), finished)
                    for kept, side in zip(past.kept, sides, strict=True)
                ),
                decoder=self.decoder.advance(clean[row][None], past.decoder),
            )
            for row, past in enumerate(context.pasts)
        ]
        commands = actions if context.actions is None else Actions.join([context.actions, actions])
        return CausalWanContext(tuple(pasts), finished, actions=commands)

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: CausalWanContext) -> Tensor:
        """Frames of a chunk, see ``decode_candidates``."""
        memories = [past.decoder for past in context.pasts]
        return decode_candidates(self.decoder, clean_BCKHW, memories, _pixels)

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder`` and ``encode_videos``."""
        return encode_videos(self.decoder, frames_PF3hw, self.spec.name, self._device)

    def _given(self, context: CausalWanContext, length: int) -> Tensor | None:
        """The next chunk of a given video, (P, C, K, H, W); None when it is to be imagined.

        Raises:
            ValueError: when the video ends within the chunk.
        """
        videos = [past.start.given_CMHW for past in context.pasts]
        start, stop = context.num_latents, context.num_latents + length
        if videos[0] is None or videos[0].shape[1] <= start:
            return None
        if videos[0].shape[1] < stop:
            raise ValueError(f"the given video ends within the chunk of latents {start} to {stop - 1}")
        return torch.stack([video[:, start:stop] for video in videos if video is not None])

    def _sides(self, context: CausalWanContext, length: int) -> tuple[tuple[Past, ...], ...]:
        finished = context.num_latents
        most = None if self.most_tokens is None else self.most_tokens - self._tokens(length)
        return tuple(
            tuple(
                Past(
                    past.start.states[side],
                    self.window.view(past.kept[side], finished, length),
                    self.action_window.view(past.kept[side], finished, length),
                    most,
                )
                for past in context.pasts
            )
            for side in range(len(context.pasts[0].start.states))
        )

    def _tokens(self, latents: int) -> int:
        _, height, width = self.spec.latent_shape
        _, rows, columns = self.net.config.patch
        return latents * (height // rows) * (width // columns)

    def _needed(self, kept: tuple[Kept, ...], finished: int) -> tuple[Kept, ...]:
        """What a later chunk may still see: whole chunks, and for the actions only what their modules will see."""
        shortest = min(self.spec.chunk_lengths)

        def visible(part: Kept, window: Window) -> bool:
            spans = window.spans(finished, shortest)
            return any(part.first < stop and part.first + part.num_latents > start for start, stop in spans)

        found = []
        for part in kept:
            acts = visible(part, self.action_window)
            if acts or visible(part, self.window):
                found.append(part if acts else part.without_actions())
        return tuple(found)

    def _chunk(
        self, latents_BCKHW: Tensor, timesteps_BK: Tensor, actions: Actions, context: CausalWanContext
    ) -> Chunk:
        rows = rows_per_past(len(latents_BCKHW), context.num_pasts)
        index = torch.arange(context.num_pasts, device=latents_BCKHW.device).repeat_interleave(rows)
        before = None if context.actions is None else context.actions.select(index)
        starts = tuple(past.start for past in context.pasts for _ in range(rows))
        return Chunk(latents_BCKHW, timesteps_BK, context.num_latents, actions.select(index), before, starts)

    def _flow(self, inputs: Latents, sides: Sequence[Sequence[Past]]) -> Tensor:
        flow = self.net(inputs, sides[0]).float()
        if len(sides) == 1 or self.scale is None:
            return flow
        if torch.is_grad_enabled():
            raise ValueError("guidance is for play: train without it, or disable gradients")
        weak = self.net(inputs, sides[1]).float()
        return weak + self.scale * (flow - weak)


def _pixels(frames: Tensor) -> Tensor:
    """Values from 0 to 1 as uint8, cut off as the official code does."""
    return (255 * frames).to(torch.uint8)
