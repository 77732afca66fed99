"""Noise levels of a rollout, and the step from one level to the next: pure functions in clean space.

A noisy latent is ``x = (1 - s) x0 + s n`` with the level s in [0, 1]. Other conventions convert to it: flow
matching has this form; for EDM's ``x0 + t n`` divide by ``1 + t``, and s is ``t / (1 + t)``; for ``a x0 + b n``
of a variance-preserving model divide by ``a + b``, and s is ``b / (a + b)``. The Euler steps of EDM and DDIM with
eta 0 then equal ``euler_step``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from worldcompass.errors import UnfitInputs

Noise = Callable[[int], Tensor]
"""Standard normal noise of a chunk's rows by denoising step, (B, C, K, H, W); step 0 gives the start."""

Sampler = Callable[[Tensor, Tensor, float, float, Callable[[], Tensor]], Tensor]
"""(noisy, clean, sigma, next_sigma, fresh) -> the noisy latents at ``next_sigma``; ``euler_step`` or
``fresh_noise_step``. ``fresh`` draws standard normal noise of the same shape."""


@dataclass(frozen=True)
class ShiftedLevels:
    """Levels ``shift u / (1 + (shift - 1) u)`` with u evenly spaced from 1 to 0, for any number of steps.

    Raises:
        ValueError: unless the shift is positive and the number of steps is at least 1.
    """

    shift: float
    """Values above 1 shift the levels towards high noise; 1 is uniform."""
    num_steps: int
    """Default number of denoising steps."""

    def __post_init__(self) -> None:
        if self.shift <= 0 or self.num_steps < 1:
            raise ValueError(f"noise levels need a positive shift and 1 step or more, got {self}")

    def sigmas(self, num_steps: int | None = None) -> Tensor:
        """float32, (S + 1,), from 1 to 0."""
        u = torch.linspace(1, 0, (num_steps or self.num_steps) + 1, dtype=torch.float64)
        return (self.shift * u / (1 + (self.shift - 1) * u)).float()


@dataclass(frozen=True)
class ExplicitLevels:
    """A fixed list of levels, such as those of a distilled model.

    Raises:
        ValueError: unless they fall from at most 1 to 0.
    """

    levels: tuple[float, ...]
    """(S + 1) values for S denoising steps; the last is 0."""

    def __post_init__(self) -> None:
        falls = all(level > after for level, after in pairwise(self.levels))
        if len(self.levels) < 2 or not falls or self.levels[0] > 1 or self.levels[-1] != 0:
            raise ValueError(f"noise levels must fall from at most 1 to 0, got {self.levels}")

    @property
    def num_steps(self) -> int:
        """Denoising steps."""
        return len(self.levels) - 1

    def sigmas(self, num_steps: int | None = None) -> Tensor:
        """float32, (S + 1,).

        Raises:
            UnfitInputs: for another number of steps.
        """
        if num_steps not in (None, self.num_steps):
            raise UnfitInputs(
                f"this world has fixed noise levels for {self.num_steps} denoising steps, got {num_steps}: set"
                f" {self.num_steps}, or leave the number of steps out"
            )
        return torch.tensor(self.levels)


Schedule = ShiftedLevels | ExplicitLevels


def corrupt(clean_BCKHW: Tensor, noise_BCKHW: Tensor, sigma_B: Tensor) -> Tensor:
    """``(1 - sigma) clean + sigma noise``, the flow-matching path."""
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    return (1 - sigma) * clean_BCKHW + sigma * noise_BCKHW


def euler_step(
    noisy: Tensor,
    clean: Tensor,
    sigma: float,
    next_sigma: float,
    fresh: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Euler step ``x + (s' - s) v`` in clean space, ``c + (s'/s)(x - c)``: exact at s' = 0; draws nothing."""
    return clean + (next_sigma / sigma) * (noisy - clean)


@dataclass(frozen=True)
class StochasticStep:
    """A step of the SDE with the marginals of flow matching: ``x' = of_noisy x + of_clean c + deviation n``.

    With the velocity ``v = (x - c) / s``, the estimated noise ``e = (x - (1 - s) c) / s`` and the diffusion
    ``w = size sqrt(s / (1 - s))``, the step is ``x + (v + w^2 / (2 s) e) (s' - s) + w sqrt(s - s') n`` (Flow-GRPO,
    arXiv 2505.05470). Two differences: at s = 1, where w is infinite, ``1 - s'`` takes the place of
    ``1 - s``; and the step to s' = 0 is ``c`` without noise, so that critics see clean pictures.
    """

    of_noisy: float
    of_clean: float
    deviation: float

    @staticmethod
    def between(sigma: float, next_sigma: float, size: float) -> StochasticStep:
        """The step from one level to the next, with ``size`` 0 for the Euler step."""
        if next_sigma == 0:
            return StochasticStep(0.0, 1.0, 0.0)
        gap, down = 1 - (sigma if sigma < 1 else next_sigma), sigma - next_sigma
        half = size**2 / (2 * gap)
        return StochasticStep(
            1 - down * (1 + half) / sigma,
            down * (1 + half * (1 - sigma)) / sigma,
            size * math.sqrt(down * sigma / gap),
        )

    def target(self, noisy: Tensor, after: Tensor) -> Tensor:
        """The clean estimate with which ``after`` is the mean of this step from ``noisy``."""
        return (after - self.of_noisy * noisy) / self.of_clean

    @property
    def unit(self) -> float:
        """The deviation of ``target`` around the estimate that made the step."""
        return self.deviation / self.of_clean


def stochastic(size: float) -> Sampler:
    """``StochasticStep`` as a sampler."""

    def step(
        noisy: Tensor, clean: Tensor, sigma: float, next_sigma: float, fresh: Callable[[], Tensor]
    ) -> Tensor:
        own = StochasticStep.between(sigma, next_sigma, size)
        mean = own.of_noisy * noisy + own.of_clean * clean
        return mean + own.deviation * fresh() if own.deviation else mean

    return step


def fresh_noise_step(
    noisy: Tensor, clean: Tensor, sigma: float, next_sigma: float, fresh: Callable[[], Tensor]
) -> Tensor:
    """``(1 - s') c + s' n`` with new noise n, as in distilled few-step models; ``noisy`` is not used."""
    return clean if next_sigma == 0 else (1 - next_sigma) * clean + next_sigma * fresh()
