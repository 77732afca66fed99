"""Velocity from a guess of the clean latent, for networks that find most of a picture in their views."""

from __future__ import annotations

from torch import Tensor

LEAST_VARIANCE = 1e-8  # keeps a sure guess of a clean latent finite


def posterior_velocity(noisy: Tensor, mean: Tensor, spread: Tensor, sigma: Tensor) -> Tensor:
    """Velocity of a latent that is normal around a guess, given its noisy version ``x``.

    The clean estimate is the posterior mean ``m + s^2 (1 - t) / ((1 - t)^2 s^2 + t^2) (x - (1 - t) m)`` with the
    guess m, its deviation s and the noise level t: the guess where all is noise, and ``x`` where there is none. The
    velocity ``(x - clean) / t`` is written so that t = 0 divides by nothing.

    Args:
        noisy: (..., C, H, W).
        mean: the guess m, of the same shape.
        spread: its deviation s, positive; it broadcasts to that shape.
        sigma: the noise level t, which broadcasts too.
    """
    keep = 1 - sigma
    total = keep.square() * spread.square() + sigma.square() + LEAST_VARIANCE
    return (sigma - keep * spread.square()) / total * (noisy - keep * mean) - mean
