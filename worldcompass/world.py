"""The contract of a world model: what an adapter implements, and nothing more.

``worldcompass.testing.check_world_model`` is the executable form of this page.
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


@dataclass(frozen=True)
class WorldSpec:
    """The facts about a world model that the algorithm needs."""

    name: str
    latent_shape: tuple[int, int, int]
    """(C, H, W) of one latent."""
    chunk_lengths: tuple[int, ...]
    """Latents per chunk that the model was trained for; the first is the default."""
    frames_per_latent: int
    """Video frames of every latent but the first of a video."""
    fps: float
    frame_size: tuple[int, int]
    """(height, width) in pixels."""
    schedule: Schedule
    """Noise levels of a rollout: ``ShiftedLevels`` for any number of steps, or ``ExplicitLevels``."""
    actions: ActionSpace
    """What can be commanded: ``CameraActions`` (actions.py) or ``Controls`` (controls.py)."""
    batches_pasts: bool
    """Whether one call may hold several pasts (P > 1)."""
    sampler: Sampler = euler_step
    """How a rollout goes from one noise level to the next: ``euler_step``, or ``fresh_noise_step`` for students."""
    first_latent_frames: int = 1
    """Video frames of latent 0."""

    @property
    def num_steps(self) -> int:
        """Denoising steps of a rollout unless a caller says otherwise."""
        return self.schedule.num_steps

    def sigmas(self, num_steps: int | None = None) -> Tensor:
        """Noise levels of a rollout from the highest to 0; float32, (S + 1,).

        Raises:
            UnfitInputs: for a number of steps that an explicit schedule does not have.
        """
        return self.schedule.sigmas(num_steps)

    def num_frames(self, start: int, stop: int) -> int:
        """Frames of the latents ``start <= i < stop``."""
        first = self.first_latent_frames - self.frames_per_latent if start == 0 < stop else 0
        return self.frames_per_latent * (stop - start) + first


@runtime_checkable
class Context(Protocol):
    """P pasts as the model remembers them. Immutable: every change is a new object that shares structure."""

    @property
    def num_pasts(self) -> int:
        """P."""
        ...

    @property
    def num_latents(self) -> int:
        """Finished latents of every past; the coming chunk starts at this index."""
        ...

    @property
    def given_K(self) -> Tensor | None:
        """bool (K,): latents of the coming chunk that are given, not imagined; None before ``attend``.

        A start image may be one, or several frames of a recording; a chunk may be given whole.
        """
        ...

    def select(self, row: int) -> Self:
        """The context of one past alone (P = 1)."""
        ...


C = TypeVar("C", bound=Context)


class WorldModel(Protocol[C]):
    """An autoregressive video world model. Latents travel in fp32; rows b belong to past b // (B // P)."""

    @property
    def spec(self) -> WorldSpec:
        """The facts about the model."""
        ...

    @property
    def net(self) -> nn.Module:
        """What is trained. Every use of its parameters goes through ``net(...)``."""
        ...

    def begin(self, scenarios: Sequence[Scenario]) -> C:
        """Start P pasts from their images or prepared conditioning; no latent is finished yet."""
        ...

    def attend(self, context: C, actions: Actions, generators: Sequence[torch.Generator] | None = None) -> C:
        """Prepare the coming chunk, once and without gradient: choose memory, build the prefix.

        Whatever is random about it is drawn here, such as noise on the remembered latents, and stays in the
        returned context: the update then sees what imagined the data. ``predict_clean`` draws nothing.

        Args:
            context: what is remembered so far.
            actions: the chunk's commands, (P, K).
            generators: one on the CPU for each past, derived from the run's keys. What is drawn for a past comes
                from its own generator alone. A world that draws nothing ignores them; one that does may refuse
                None with a ``ValueError``.
        """
        ...

    def predict_clean(self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: C) -> Tensor:
        """Estimate the clean chunk from ``(1 - sigma) clean + sigma noise``; the only call with gradients.

        Returns fp32 (B, C, K, H, W); given latents come back exactly as given, whatever the noise. A chunk that
        is given whole is asked for once, and needs no pass through the network.

        Raises:
            ValueError: when ``context`` was not attended for a chunk of this length.
        """
        ...

    def remember(self, context: C, clean_PCKHW: Tensor, actions: Actions) -> C:
        """Append one finished chunk to every past; returns a new context."""
        ...

    def decode(self, clean_BCKHW: Tensor, context: C) -> Tensor:
        """Frames of a chunk that continue the context's past exactly: uint8 (B, F, 3, h, w)."""
        ...


@runtime_checkable
class Guidable(Protocol[C]):
    """A world model whose estimate can be guided: strengthened against one that knows less (decision 7)."""

    def weaken(self, context: C) -> C:
        """The attended context without the condition that guidance strengthens."""
        ...
