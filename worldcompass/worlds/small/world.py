"""A small world behind the contract of ``world.py``: an autoencoder and a transformer.

The hooks of ``SmallWorld`` are those of a camera that stands still and of controls. A world overrides what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from worldcompass.types import Actions, Scenario
from worldcompass.world import WorldSpec
from worldcompass.worlds.small.autoencoder import Codec, Look
from worldcompass.worlds.small.context import (
    Attended,
    Remembered,
    SmallContext,
    attended_for,
    bounded,
    needed,
)
from worldcompass.worlds.small.transformer import (
    ChunkTransformer,
    Command,
    Prefix,
    Rotary,
    after_prefix,
    rotate,
    still_rotary,
)

ROWS_PER_THREAD = 24  # rows of the network whose tensors fit into a core's cache (docs/performance.md)
CLIPS_PER_THREAD = 6  # candidates decoded at once there

A = TypeVar("A", bound=Codec)


@dataclass(frozen=True)
class Memory:
    """Which finished latents a chunk sees, and how."""

    recent: int = 4
    """The attention window of latents right before the chunk."""
    older: int = 4
    """Length of one older stretch, chosen by ``SmallWorld.distance``."""
    most: int = 64
    """Latents whose keys are kept; the oldest after the first chunk are let go."""
    sigma: float = 0.1
    """Noise level that finished latents declare: they are imagined, not exact."""


class SmallWorld(Generic[A]):
    """Implements ``WorldModel[SmallContext]``; see there for shapes and meaning. A world says its ``spec``."""

    spec: WorldSpec
    memory = Memory()
    temperature = 1.0
    """At which chunks are imagined, see ``Tempered``."""

    def __init__(self, autoencoder: A, net: ChunkTransformer) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.net = net
        self._looked: tuple[Tensor, Look] | None = None

    # What may differ between worlds. ``last`` is (P, 1), ``actions`` (P, K), ``past`` (P, M).

    def command(self, last: Actions, actions: Actions) -> Command:
        """What the network is told of a chunk's actions after the last latent's; (P, K, ...) each."""
        return (actions.controls.flat_KA,)

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """What a chunk shows of its past, for the network to mend; (P, D, K, y, x), H x W for the kit's own stem.

        Args:
            look: of the last latent.
            last: its action.
            older: latents (P, C, M, H, W) and actions of the past before it.
            actions: of the chunk.
        """
        return look.picture.new_zeros(len(look.picture), 0, len(actions), *self.spec.latent_shape[1:])

    def rotary(self, positions_PK: Tensor, actions: Actions) -> Rotary:
        """The rotary embedding of latents at these positions in time."""
        return still_rotary(positions_PK, self.net.config)

    def distance(self, past: Actions, target: Actions) -> Tensor:
        """How far latents are from the chunk's last one (P, 1), to choose a memory; (P, M). Here their age."""
        pasts = past.commanded_K
        return torch.arange(len(past), device=pasts.device).float().expand_as(pasts)

    def starting(self, actions: Actions) -> Actions:
        """A part (..., M) of an episode as the trajectory of a video that begins there: latent 0 has no command."""
        values = actions.controls.values_KTA.clone()
        values[..., 0, :, :] = 0
        return replace(actions.controls, values_KTA=values)

    # The contract.

    @property
    def device(self) -> torch.device:
        """Of the network."""
        return next(self.net.parameters()).device

    @torch.no_grad()
    def begin(self, scenarios: Sequence[Scenario]) -> SmallContext:
        """Encode the start images.

        Raises:
            ValueError: for a scenario without an image of the world's size.
        """
        expected = (3, *self.spec.frame_size)
        for scenario in scenarios:
            shape = None if scenario.image_3hw is None else tuple(scenario.image_3hw.shape)
            if shape != expected:
                raise ValueError(
                    f"scenario {scenario.id}: the {self.spec.name.capitalize()} world starts from a uint8 image"
                    f" of shape {expected}, got {shape}: see worldcompass.media.video.fit"
                )
        images = torch.stack([s.image_3hw for s in scenarios if s.image_3hw is not None])
        latent = self.encode(images[:, None])[:, :, 0]
        last = Actions.stack([s.actions.latents(0, 1) for s in scenarios]).to(self.device)
        return SmallContext(latent, last)

    @torch.no_grad()
    def attend(
        self, context: SmallContext, actions: Actions, generators: Sequence[torch.Generator] | None = None
    ) -> SmallContext:
        """Choose the memory for the coming actions and gather its keys."""
        count, start = len(actions), context.num_latents
        given = torch.zeros(count, dtype=torch.bool, device=self.device)
        given[0] = start == 0
        command = self.command(context.last, actions)
        look = self._look(context.last_PCHW)
        seen = self.views(look, context.last, context.older(), actions)
        chosen = self._choose(context, actions.latents(count - 1, count))
        before = chosen.shape[1]
        positions = torch.arange(before + count, device=self.device).float()
        positions = positions.expand(context.num_pasts, -1)
        rotary = self.rotary(positions[:, before:], actions)
        prefix = self._gather(context, chosen, positions[:, :before]) if before else None
        attended = Attended(given, command, look, seen, rotary, prefix, self.temperature)
        return replace(context, attended=attended)

    def predict_clean(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: SmallContext
    ) -> Tensor:
        """See ``WorldModel.predict_clean``."""
        attended, last_PCHW = attended_for(context, noisy_BCKHW.shape[2]), context.last_PCHW
        rows = len(noisy_BCKHW) // context.num_pasts
        if context.num_latents == 0 and noisy_BCKHW.shape[2] == 1:
            return last_PCHW.repeat_interleave(rows, 0)[:, :, None]  # the start image, given whole
        known = int(context.num_latents == 0)  # the start image
        at_once = max(1, ROWS_PER_THREAD // self.net.row_size)
        pieces = [
            self._predict(noisy_BCKHW[own], sigma_B[own], last_PCHW[some], attended.select(some), known)
            for some, own in self._pieces(context.num_pasts, rows, at_once)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _predict(
        self, noisy_BCKHW: Tensor, sigma_B: Tensor, last_PCHW: Tensor, attended: Attended, known: int
    ) -> Tensor:
        """``predict_clean`` of a piece; the ``known`` first latents are the given ones."""
        rows = len(noisy_BCKHW) // len(last_PCHW)
        given = attended.given_K[:, None, None]
        last = last_PCHW.repeat_interleave(rows, 0)
        noisy = torch.where(given, last[:, :, None], noisy_BCKHW)
        sigma_BK = torch.where(attended.given_K, 0.0, sigma_B[:, None])
        command = tuple(x.repeat_interleave(rows, 0) for x in attended.command)
        velocity, _ = self.net(
            noisy, sigma_BK, command, last, attended.seen_PDKyx,
            rotary=_repeat(attended.rotary, rows), attend=after_prefix(attended.prefix), known=known,
            temperature=attended.temperature,
        )  # fmt: skip
        clean = noisy[:, :, known:] - sigma_B.view(-1, 1, 1, 1, 1) * velocity.float()
        return torch.cat([noisy[:, :, :known], clean], 2) if known else clean

    def _pieces(self, num_pasts: int, rows: int, per_thread: int) -> list[tuple[slice, slice]]:
        """Some pasts at a time with their rows; on a CPU about ``per_thread`` rows for each thread.

        Threads share a piece: what fits into their caches is faster. Any other device takes all at once.
        """
        on_cpu = self.device.type == "cpu"
        step = max(1, per_thread * torch.get_num_threads() // rows) if on_cpu else num_pasts
        starts = range(0, num_pasts, step)
        return [(slice(p, p + step), slice(p * rows, (p + step) * rows)) for p in starts]

    def weaken(self, context: SmallContext) -> SmallContext:
        """See ``Guidable``: without the world's views; in a world that has none, without the commands."""
        attended = context.attended
        assert attended is not None
        if attended.seen_PDKyx.shape[1]:
            weak = replace(attended, seen_PDKyx=torch.zeros_like(attended.seen_PDKyx))
        else:
            weak = replace(attended, command=tuple(torch.zeros_like(x) for x in attended.command))
        return replace(context, attended=weak)

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Encoder``."""
        return self.autoencoder.encode_video(frames_PF3hw.to(self.device).float() / 255)

    @torch.no_grad()
    def remember(self, context: SmallContext, clean_PCKHW: Tensor, actions: Actions) -> SmallContext:
        """Append a finished chunk: its keys, its last latent and action."""
        attended = (context if context.attended else self.attend(context, actions)).attended
        assert attended is not None
        sigma = torch.where(attended.given_K, 0.0, self.memory.sigma).expand(context.num_pasts, -1)
        _, keys = self.net(
            clean_PCKHW, sigma, attended.command, context.last_PCHW, attended.seen_PDKyx,
            rotary=attended.rotary, attend=after_prefix(attended.prefix), keep_keys=True,
        )  # fmt: skip
        kept = [(k.clone(), v.clone()) for k, v in keys]  # views would keep the queries too
        history = (*context.history, Remembered(kept, actions, clean_PCKHW))
        return SmallContext(
            clean_PCKHW[:, :, -1],
            actions.latents(len(actions) - 1, len(actions)),
            context.num_latents + len(actions),
            bounded(history, self.memory.most),
        )

    @torch.no_grad()
    def decode(self, clean_BCKHW: Tensor, context: SmallContext) -> Tensor:
        """Frames of a chunk; the decoder's memory of the past is its last latent."""
        previous: Look | None = None
        if context.num_latents:
            look_P = attended_for(context, clean_BCKHW.shape[2]).look_P
            previous = look_P.repeat(len(clean_BCKHW) // context.num_pasts)
        pieces = [
            self._frames(clean_BCKHW[own], previous and previous.select(own))
            for own, _ in self._pieces(len(clean_BCKHW), 1, CLIPS_PER_THREAD)
        ]
        return torch.cat(pieces)

    @torch.no_grad()
    def reconstruct(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``Reconstructor``; one video after another on a CPU, as each is longer than a clip."""
        latents = self.encode(frames_PF3hw)
        pieces = self._pieces(len(latents), CLIPS_PER_THREAD, CLIPS_PER_THREAD)
        return torch.cat([self._frames(latents[videos], None) for videos, _ in pieces])

    def _frames(self, clean_BCKHW: Tensor, previous: Look | None) -> Tensor:
        latents = clean_BCKHW.float().transpose(1, 2)
        looks = self._look(latents.flatten(0, 1)).unflatten(latents.shape[:2])
        frames = self.autoencoder.frames_of(looks, previous)
        return (frames.clamp(0, 1) * 255).round().to(torch.uint8)

    def _look(self, latents_BCHW: Tensor) -> Look:
        """``Autoencoder.look``. In inference mode the last one is kept: live play attends to what it just decoded.

        Elsewhere, where batches are large and come once, comparing would cost a device a pause.
        """
        if not latents_BCHW.is_inference():
            return self.autoencoder.look(latents_BCHW)
        known = self._looked
        if known is None or known[0].device != latents_BCHW.device or not known[0].equal(latents_BCHW):
            known = self._looked = (latents_BCHW, self.autoencoder.look(latents_BCHW))
        return known[1]

    def _choose(self, context: SmallContext, target: Actions) -> Tensor:
        """Which finished latents the coming chunk sees: the memory stretch, then the recent ones; (P, N)."""
        total = sum(len(chunk) for chunk in context.history)
        older = max(0, total - self.memory.recent)
        recent = torch.arange(older, total, device=self.device).expand(context.num_pasts, -1)
        if older == 0:
            return recent
        past = Actions.join([chunk.actions for chunk in context.history])
        num_starts = max(1, older - self.memory.older + 1)
        best = self.distance(past.latents(0, num_starts), target).argmin(1)
        memory = best[:, None] + torch.arange(min(self.memory.older, older), device=best.device)
        return torch.cat([memory, recent], 1)

    def _gather(self, context: SmallContext, chosen_PN: Tensor, positions_PN: Tensor) -> Prefix:
        """Rotated keys and values of the chosen latents of each past, at consecutive positions in time."""
        history, size = context.history, self.net.config.tokens
        if chosen_PN.is_inference():  # live play, where copying counts; elsewhere asking would pause a device
            history, chosen_PN = needed(history, chosen_PN)
        past = Actions.join([chunk.actions for chunk in history]).pick_each(chosen_PN)
        rows = torch.arange(len(chosen_PN), device=chosen_PN.device)[:, None]
        rotary = self.rotary(positions_PN, past)
        tokens = (chosen_PN[..., None] * size + torch.arange(size, device=chosen_PN.device)).flatten(1)
        keys = []
        for block in range(len(history[0].keys)):
            whole = (torch.cat([h.keys[block][part] for h in history], 2) for part in (0, 1))
            key, value = (rotate(x.transpose(1, 2)[rows, tokens].transpose(1, 2), rotary) for x in whole)
            keys.append((key, value))
        return keys


def _repeat(rotary: Rotary, rows: int) -> Rotary:
    cos, sin = (part.repeat_interleave(rows, 0) for part in rotary)
    return cos, sin
