"""Parameterisations of the network's output, their timesteps, and the noise levels of both official samplers.

The project's noisy latent is ``x = (1 - s) x0 + s n``. Flow matching has this form with ``s = (t + 1) / T``. The
others have ``x' = sqrt(a) x0 + sqrt(1 - a) n``, so that ``s = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a))`` and
``x' = x / r`` with ``r = sqrt((1 - s)^2 + s^2)``, ``sqrt(a) = (1 - s) / r``, ``sqrt(1 - a) = s / r``. Steps of DDIM
with eta 0 then equal ``noise.euler_step``.

Squared-cosine levels: arXiv 2102.09672. Zero terminal signal: arXiv 2305.08891. v: arXiv 2202.00512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from worldcompass.noise import ExplicitLevels
from worldcompass.settings import Rule, enforce

Prediction = Literal["v", "flow", "x", "epsilon"]
Betas = Literal["squaredcos_cap_v2", "linear"]
Regime = Literal["full", "respaced"]
"""``full`` takes the sampler's timesteps from all T, as training and planning do; ``respaced`` spreads them evenly,
as the rollout scripts do. Flow matching has only the first."""

COSINE_OFFSET, MAX_BETA = 0.008, 0.999  # of the squared-cosine levels
LINEAR_BETAS = 1e-4, 0.02  # for 1000 timesteps
WHOLE = 0.02  # a timestep so near to an integer is this integer: float32 levels are a little off the table


@dataclass(frozen=True)
class Noising:
    """What a checkpoint was trained to predict, and under which noise."""

    prediction: Prediction = "v"
    betas: Betas = "squaredcos_cap_v2"
    """Not used by flow matching."""
    zero_terminal_snr: bool = True
    """Whether the last timestep is pure noise; not used by flow matching."""
    num_timesteps: int = 1000
    """T."""
    stabilization: float = 0.02
    """Level of the noise on remembered latents, a share of the timesteps; 0 keeps them clean."""

    def __post_init__(self) -> None:
        enforce(
            vars(self),
            [
                Rule(
                    ("prediction",),
                    self.prediction in get_args(Prediction),
                    f"expected one of {', '.join(get_args(Prediction))}",
                ),
                Rule(
                    ("betas",), self.betas in get_args(Betas), f"expected one of {', '.join(get_args(Betas))}"
                ),
                Rule(
                    ("prediction", "betas", "zero_terminal_snr"),
                    self.prediction != "epsilon" or (self.betas == "linear" and not self.zero_terminal_snr),
                    "predicting the noise diverges except with linear betas and no zero_terminal_snr",
                ),
                Rule(("num_timesteps",), self.num_timesteps > 1, "expected 2 timesteps or more"),
                Rule(
                    ("stabilization",), 0 <= self.stabilization < 1, "expected a level from 0 to less than 1"
                ),
            ],
        )

    @cached_property
    def alphas_T(self) -> Tensor:
        """The share of the signal's variance at every timestep, float64; not of flow matching."""
        betas = _cosine_betas(self.num_timesteps) if self.betas != "linear" else _linear(self.num_timesteps)
        alphas = (1 - betas).cumprod(0)
        if not self.zero_terminal_snr:
            return alphas
        root = alphas.sqrt()
        return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()

    @cached_property
    def sigmas_T(self) -> Tensor:
        """The project's noise level at every timestep, rising; float64."""
        if self.prediction == "flow":
            return torch.arange(1, self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        signal, noise = self.alphas_T.sqrt(), (1 - self.alphas_T).sqrt()
        return noise / (signal + noise)

    def timesteps(self, sigma: Tensor) -> Tensor:
        """What the network is told for noise levels; float32. Between those of the table it is a fraction.

        Levels below the table's first are told 0, which training also told clean latents.
        """
        table = self.sigmas_T.to(sigma.device)
        wanted = sigma.double()
        above = torch.searchsorted(table, wanted.contiguous()).clamp(1, self.num_timesteps - 1)
        low, high = table[above - 1], table[above]
        place = (above - 1 + (wanted - low) / (high - low)).clamp(0, self.num_timesteps - 1)
        whole = place.round()
        return torch.where((place - whole).abs() < WHOLE, whole, place).float()

    def scaled(self, noisy_BCKHW: Tensor, sigma_B: Tensor) -> Tensor:
        """A noisy latent of the project as the network reads it."""
        return noisy_BCKHW if self.prediction == "flow" else noisy_BCKHW / _radius(self._known(sigma_B))

    def clean(self, output_BCKHW: Tensor, noisy_BCKHW: Tensor, sigma_B: Tensor) -> Tensor:
        """The estimate of the clean latent from the network's output and the project's noisy latent."""
        sigma = self._known(sigma_B)
        if self.prediction == "flow":
            return noisy_BCKHW + sigma * output_BCKHW
        if self.prediction == "x":
            return output_BCKHW
        if self.prediction == "epsilon":
            return (noisy_BCKHW - sigma * output_BCKHW) / (1 - sigma)
        radius = _radius(sigma)
        return ((1 - sigma) * noisy_BCKHW / radius - sigma * output_BCKHW) / radius

    def _known(self, sigma_B: Tensor) -> Tensor:
        """Noise levels that broadcast over latents.

        A network that predicts the noise cannot tell the signal of a level above its table's last: the table's last
        level is taken for it.
        """
        sigma = sigma_B.float().view(-1, 1, 1, 1, 1)
        return sigma.clamp(max=float(self.sigmas_T[-1])) if self.prediction == "epsilon" else sigma

    def told(self, num_steps: int, regime: Regime = "full") -> list[int]:
        """The timesteps of a rollout, falling, without the clean end.

        Raises:
            ValueError: for more steps than timesteps.
        """
        total = self.num_timesteps
        if not 1 <= num_steps <= total:
            raise ValueError(f"num_steps is {num_steps}: expected 1 to {total}, the timesteps of training")
        if regime == "respaced" and self.prediction != "flow":
            stride = (total - 1) / max(1, num_steps - 1)
            return [round(index * stride) for index in reversed(range(num_steps))]
        # In float32 and cut off, as it is done officially: some step counts are one lower than exact arithmetic.
        places = torch.linspace(-1, total - 1, num_steps + 1, dtype=torch.float32).long()
        return places[1:].flip(0).tolist()

    def levels(self, num_steps: int, regime: Regime = "full") -> ExplicitLevels:
        """The noise levels of a rollout; see ``told``."""
        return ExplicitLevels((*self.sigmas_T[self.told(num_steps, regime)].tolist(), 0.0))

    def stabilization_timestep(self, num_steps: int, regime: Regime = "full") -> int | None:
        """The timestep to which remembered latents are noised; None when they stay clean."""
        if not self.stabilization:
            return None
        if regime == "respaced" and self.prediction != "flow":
            told = self.told(num_steps, regime)[::-1]
            return told[round(self.stabilization * (num_steps - 1))]
        return round(self.stabilization * (self.num_timesteps - 1))


def _radius(sigma: Tensor) -> Tensor:
    return ((1 - sigma).square() + sigma.square()).sqrt()


def _cosine_betas(total: int) -> Tensor:
    places = torch.arange(total + 1, dtype=torch.float64) / total
    left = ((places + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return (1 - left[1:] / left[:-1]).clamp(max=MAX_BETA)


def _linear(total: int) -> Tensor:
    first, last = (beta * 1000 / total for beta in LINEAR_BETAS)
    return torch.linspace(first, last, total, dtype=torch.float64)
