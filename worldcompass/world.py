"""The contract of a world model: what an adapter implements, and nothing more.

``worldcompass.testing.check_world_model`` is the executable form of this page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from worldcompass.geometry import LabelThresholds, Motion
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
    """Video frames of every latent but the start image's, which is one frame."""
    fps: float
    frame_size: tuple[int, int]
    """(height, width) in pixels."""
    shift: float
    """Shift of the noise schedule towards high noise (1 = uniform)."""
    num_steps: int
    """Denoising steps of a rollout unless a caller says otherwise."""
    motion: Motion
    """Nominal motion of an action over one latent."""
    thresholds: LabelThresholds
    """What counts as moving when labels are read from poses."""
    batches_pasts: bool
    """Whether one call may hold several pasts (P > 1)."""
    max_pitch_deg: float | None = None
    """How far up or down the world was trained to look; None for no limit."""
    intrinsics: tuple[float, float, float, float] = (1.0, 1.0, 0.5, 0.5)
    """fx, fy, cx, cy over width and height of the camera to assume where nobody measured one."""

    def sigmas(self, num_steps: int | None = None) -> Tensor:
        """The shifted schedule ``s u / (1 + (s - 1) u)``, u from 1 to 0; float32, (S + 1,)."""
        u = torch.linspace(1, 0, (num_steps or self.num_steps) + 1, dtype=torch.float64)
        return (self.shift * u / (1 + (self.shift - 1) * u)).float()

    def num_frames(self, start: int, stop: int) -> int:
        """Frames of the latents ``start <= i < stop``; latent 0 is a single frame."""
        return self.frames_per_latent * (stop - start) - (self.frames_per_latent - 1) * (start == 0)


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
        """bool (K,): latents of the coming chunk that are given, not imagined; None before ``attend``."""
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

    def attend(self, context: C, actions: Actions) -> C:
        """Prepare the coming chunk, once and without gradient: choose memory, build the prefix.

        ``actions`` are the chunk's commands, (P, K).
        """
        ...

    def predict_clean(self, noisy_BCKHW: Tensor, sigma_B: Tensor, actions: Actions, context: C) -> Tensor:
        """Estimate the clean chunk from ``(1 - sigma) clean + sigma noise``; the only call with gradients.

        Returns fp32 (B, C, K, H, W); given latents come back exactly as given.

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
