"""The contract of a world model, which an adapter implements.

``worldcompass.testing.check_world_model`` checks an adapter against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from worldcompass.actions import ActionSpace
from worldcompass.noise import Sampler, Schedule, euler_step
from worldcompass.types import Actions, Scenario
from worldcompass.ways import PLAY, ROLLOUT, Walking


@dataclass(frozen=True)
class WorldSpec:
    """Facts about a world model that the algorithm needs."""

    name: str
    latent_shape: tuple[int, int, int]
    """(C, H, W) of one latent."""
    chunk_lengths: tuple[int, ...]
    """Latents per chunk that the model was trained for; the first is the default."""
    frames_per_latent: int
    """Video frames of every latent except the first of a video."""
    fps: float
    frame_size: tuple[int, int]
    """(height, width) in pixels."""
    schedule: Schedule
    """Noise levels of a rollout: ``ShiftedLevels`` for any number of steps, or ``ExplicitLevels``."""
    actions: ActionSpace
    """The possible commands: ``CameraActions`` (actions.py) or ``Controls`` (controls.py)."""
    batches_pasts: bool
    """Whether one call may hold several pasts (P > 1)."""
    sampler: Sampler = euler_step
    """The step between noise levels: ``euler_step``, or ``fresh_noise_step`` for distilled models."""
    first_latent_frames: int = 1
    """Video frames of latent 0."""
    play: Walking | None = None
    """How people and agents walk live, chunk by chunk; the shortest chunks with all steps when None."""

    @property
    def num_steps(self) -> int:
        """Default number of denoising steps."""
        return self.schedule.num_steps

    def sigmas(self, num_steps: int | None = None) -> Tensor:
        """Noise levels of a rollout from the highest to 0; float32, (S + 1,).

        Raises:
            UnfitInputs: when an explicit schedule has another number of steps.
        """
        return self.schedule.sigmas(num_steps)

    @property
    def ways(self) -> dict[str, Walking]:
        """The ways of walking by name: ``rollout`` and ``play``, which may be the same."""
        rollout = Walking(self.chunk_lengths[0], self.num_steps)
        return {ROLLOUT: rollout, PLAY: self.play or Walking(min(self.chunk_lengths), self.num_steps)}

    def keys_of_frames(self, actions: Actions) -> list[str]:
        """The commanded keys in every frame of a video, such as ``w + left``, for captions.

        Args:
            actions: of one video, M latents.
        """
        words = [self.actions.words(int(composite)) for composite in self.actions.composites(actions)]
        texts = [" + ".join(keys) or "no key" for keys in words[1:]]
        return ["start"] * self.first_latent_frames + [
            t for t in texts for _ in range(self.frames_per_latent)
        ]

    def num_frames(self, start: int, stop: int) -> int:
        """Frames of the latents ``start <= i < stop``."""
        first = self.first_latent_frames - self.frames_per_latent if start == 0 < stop else 0
        return self.frames_per_latent * (stop - start) + first


@runtime_checkable
class Context(Protocol):
    """The model's memory of P pasts. Immutable: every change is a new object that shares structure."""

    @property
    def num_pasts(self) -> int:
        """P."""
        ...

    @property
    def num_latents(self) -> int:
        """Finished latents of every past; the next chunk starts at this index."""
        ...

    @property
    def given_K(self) -> Tensor | None:
        """bool (K,): latents of the next chunk that are given, not imagined; None before ``attend``.

        They may be a start image or frames of a recording; a chunk may be given whole.
        """
        ...

    def select(self, row: int) -> Self:
        """The context of a single past (P = 1)."""
        ...


C = TypeVar("C", bound=Context)


class WorldModel(Protocol[C]):
    """An autoregressive video world model. Latents travel in fp32; rows b belong to past b // (B // P)."""

    @property
    def spec(self) -> WorldSpec:
        """Facts about the model."""
        ...

    @property
    def net(self) -> nn.Module:
        """The network to train. Every use of its parameters goes through ``net(...)``."""
        ...

    def begin(self, scenarios: Sequence[Scenario]) -> C:
        """Start P pasts from their images or prepared conditioning; no latent is finished yet."""
        ...

    def attend(self, context: C, actions: Actions, generators: Sequence[torch.Generator] | None = None) -> C:
        """Prepare the next chunk, once and without gradient: choose memory, build the prefix.

        Random numbers, such as noise on the remembered latents, are drawn here and stored in the returned context,
        so that the update sees the conditions of the imagination. ``predict_clean`` draws none.

        Args:
            context: the memory so far.
            actions: the chunk's commands, (P, K).
            generators: one CPU generator per past, derived from the run's keys. Draws for a past come only from
                its generator. A world without draws ignores them; one with draws may refuse None with a
                ``ValueError``.
        """
        ...

    def predict_clean(self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: C) -> Tensor:
        """Estimate the clean chunk from ``(1 - sigma) clean + sigma noise``; the only call with gradients.

        Returns fp32 (B, C, K, H, W); given latents are returned exactly, independent of the noise. A chunk that is
        given whole is predicted once, without a pass through the network.

        Raises:
            ValueError: when ``context`` was not attended for a chunk of this length.
        """
        ...

    def remember(self, context: C, clean_PCKHW: Tensor, actions: Actions) -> C:
        """Append one finished chunk to every past and return a new context."""
        ...

    def decode(self, clean_BCKHW: Tensor, context: C) -> Tensor:
        """Decode a chunk to frames that continue the context's past exactly: uint8 (B, F, 3, h, w)."""
        ...


@runtime_checkable
class Guidable(Protocol[C]):
    """A world model with guidance against an estimate without some condition (decision 7)."""

    def weaken(self, context: C) -> C:
        """The attended context without the condition that guidance strengthens."""
        ...


@runtime_checkable
class Tempered(Protocol[C]):
    """A world model that says how unsure it is, and draws from that at a temperature (decision 20)."""

    def heated(self, context: C, temperature: float) -> C:
        """The attended context at a temperature: at 0 the likeliest, at 1 as unsure as the network says."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A world model that also encodes real video, as true pasts and reachable truth need (``reachable.py``)."""

    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """Latents of uint8 videos that begin with their start image; float32 (P, C, M, H, W).

        F is ``spec.num_frames(0, M)``. Latent 0 is the one that ``begin`` makes of the start image.
        """
        ...


@runtime_checkable
class Reconstructor(Encoder, Protocol):
    """An ``Encoder`` whose decoder reads latents alone, so that showing real video takes no pass of the network."""

    def reconstruct(self, frames_PF3hw: Tensor) -> Tensor:
        """Videos of ``encode`` through the autoencoder; uint8 of the same shape.

        Equal to ``decode`` chunk by chunk but for rounding, whatever the chunks.
        """
        ...
