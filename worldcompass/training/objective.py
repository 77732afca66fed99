"""Training objectives as pure functions of clean estimates: DiffusionNFT and its alternatives.

With ``x = (1 - sigma) x0 + sigma n`` and velocity ``v``, the clean estimate is ``c = x - sigma v``. Every velocity
formula of DiffusionNFT (arXiv 2509.16117) thus becomes one of ``c``, without a division by sigma.

All objectives share one signature and return a loss and metrics per row (detached, (B,)); the caller averages over
rows. ``given_K`` marks given latents, which enter neither loss nor normaliser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ERROR_FLOOR = 1e-5  # smallest normaliser of a squared error, as in the official code
NORM_FLOOR = 1e-8  # added under the root of norms, so that their gradients are finite

Objective = Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor | None], tuple[Tensor, dict[str, Tensor]]]
"""(clean_pred, clean_behaviour, clean_target, advantage_B, beta, given_K) -> (loss_B, metrics)."""


def row_mean(values_BCKHW: Tensor, given_K: Tensor | None = None) -> Tensor:
    """Mean of each row over channels, space and imagined latents, of which there must be one or more; (B,)."""
    if given_K is None:
        return values_BCKHW.mean((1, 2, 3, 4))
    imagined_K = (~given_K).to(values_BCKHW.dtype)
    return (values_BCKHW.mean((1, 3, 4)) * imagined_K).sum(1) / imagined_K.sum()


def normalised_error(clean_BCKHW: Tensor, target_BCKHW: Tensor, given_K: Tensor | None = None) -> Tensor:
    """``mean((c - x0)^2) / sg(mean|c - x0|)`` per row, the divisor at least 1e-5; (B,).

    The self-normalised regression of DiffusionNFT.
    """
    error = clean_BCKHW - target_BCKHW
    size_B = row_mean(error.detach().abs(), given_K).clamp_min(ERROR_FLOOR)
    return row_mean(error.square(), given_K) / size_B


def weighted_error(
    weight: Tensor, clean_BCKHW: Tensor, target_BCKHW: Tensor, given_K: Tensor | None = None
) -> Tensor:
    """``normalised_error`` times a weight of each row (B,), or of each of its latents (B, K); (B,)."""
    if weight.ndim == 1:
        return weight * normalised_error(clean_BCKHW, target_BCKHW, given_K)
    error = clean_BCKHW - target_BCKHW
    size_B = row_mean(error.detach().abs(), given_K).clamp_min(ERROR_FLOOR)
    return row_mean(weight[:, None, :, None, None] * error.square(), given_K) / size_B


def nft_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pull towards good futures, push away from bad ones (DiffusionNFT, arXiv 2509.16117).

    Implicit positive policy ``c+ = beta c + (1 - beta) c_b``, negative one ``c- = (1 + beta) c_b - beta c``,
    ``r = (A + 1) / 2``, loss ``[r d(c+, x0) + (1 - r) d(c-, x0)] / beta`` with ``d`` the normalised error.

    Args:
        clean_pred: (B, C, K, H, W), estimate of the trained weights, with gradient.
        clean_behaviour: estimate of the behaviour weights, without gradient.
        clean_target: the future that the behaviour weights imagined.
        advantage_B: in [-1, 1].
        beta: distance of the implicit policies from the behaviour, above 0.
        given_K: bool (K,) or None.
    """
    behaviour = clean_behaviour.detach()
    positive = beta * clean_pred + (1 - beta) * behaviour
    negative = (1 + beta) * behaviour - beta * clean_pred
    optimality = (advantage_B + 1) / 2
    positive_B = weighted_error(optimality, positive, clean_target, given_K)
    negative_B = weighted_error(1 - optimality, negative, clean_target, given_K)
    return (positive_B + negative_B) / beta, deviations(clean_pred, behaviour, clean_target, given_K)


def positive_only_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Baseline: regression on good futures only, ``max(A, 0) d(c, x0)``. ``beta`` is not used."""
    loss_B = weighted_error(advantage_B.clamp_min(0), clean_pred, clean_target, given_K)
    return loss_B, deviations(clean_pred, clean_behaviour, clean_target, given_K)


def advantage_weighted_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """For comparison, the effective objective of the released WorldCompass code, ``A d(c, x0)``.

    That code overwrites the behaviour's prediction with the current one, so nothing keeps the policy near the
    behaviour, and the loss has no lower bound. ``beta`` is not used.
    """
    loss_B = weighted_error(advantage_B, clean_pred, clean_target, given_K)
    return loss_B, deviations(clean_pred, clean_behaviour, clean_target, given_K)


def reward_weighted_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """For comparison, reward-weighted regression, ``exp(A / beta) d(c, x0)`` (Peters and Schaal, ICML 2007).

    Every future pulls, the better the more. The weights are shares of their largest value, at A = 1.
    """
    loss_B = weighted_error(((advantage_B - 1) / beta).exp(), clean_pred, clean_target, given_K)
    return loss_B, deviations(clean_pred, clean_behaviour, clean_target, given_K)


def imitation_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """For comparison, plain regression ``d(c, x0)`` to all selected futures, whatever their advantage.

    With ``best=1, worst=0`` this is best-of-N fine-tuning. ``beta`` is not used.
    """
    loss_B = normalised_error(clean_pred, clean_target, given_K)
    return loss_B, deviations(clean_pred, clean_behaviour, clean_target, given_K)


def kl_velocity(
    clean_pred: Tensor, clean_reference: Tensor, sigma_B: Tensor, given_K: Tensor | None = None
) -> Tensor:
    """Mean squared velocity difference from the reference weights, ``((c - c_ref) / sigma)^2`` per row; (B,).

    Proportional to the KL of two flow-matching policies (Flow-GRPO, arXiv 2505.05470); sigma > 0.
    """
    velocity = (clean_pred - clean_reference.detach()) / sigma_B.view(-1, 1, 1, 1, 1)
    return row_mean(velocity.square(), given_K)


def mean_shift(clean_pred: Tensor, clean_reference: Tensor, given_K: Tensor | None = None) -> Tensor:
    """Squared difference of every channel's spatial mean from the reference weights, per row; (B,).

    This is the uniform part of the difference: brightness and colour. A small drift per chunk accumulates over a
    video, where critics of single chunks do not see it.
    """
    shift = (clean_pred - clean_reference.detach()).mean((-2, -1), keepdim=True)
    return row_mean(shift.square(), given_K)


def velocity_ratio(
    clean_pred: Tensor, clean_reference: Tensor, noisy_BCKHW: Tensor, given_K: Tensor | None = None
) -> Tensor:
    """Size of the velocity over that of the reference weights', ``|x - c| / |x - c_ref|`` per row; (B,).

    The noise level cancels. Reinforcement learning inflates this norm (NormGuard, arXiv 2606.27771).
    """
    sizes = (
        row_mean((noisy_BCKHW - clean).square(), given_K) for clean in (clean_pred, clean_reference.detach())
    )
    size, reference = ((square + NORM_FLOOR).sqrt() for square in sizes)
    return size / reference


def contrast_ratio(clean_pred: Tensor, clean_reference: Tensor) -> Tensor:
    """Spatial deviation of every channel of a latent over that of the reference weights'; (B, C, K, 1, 1).

    The sister of ``mean_shift`` for second moments: contrast and saturation. It is held on both sides: rewards for
    sharpness inflate it, and a regression on data or a paired reward shrinks it, which blurs.
    """
    pred, reference = (
        (clean.var((-2, -1), unbiased=False, keepdim=True) + NORM_FLOOR).sqrt()
        for clean in (clean_pred, clean_reference.detach())
    )
    return pred / reference


def excess(ratio: Tensor) -> Tensor:
    """``max(0, ratio - 1)^2``: a hinge that acts only on inflation."""
    return (ratio - 1).clamp_min(0).square()


@dataclass(frozen=True)
class Anchors:
    """Weights of the terms that hold the policy near the reference weights."""

    kl: float = 0.0
    mean: float = 0.0
    norm: float = 0.0
    contrast: float = 0.0

    @property
    def active(self) -> bool:
        """Whether any term counts."""
        return max(self.kl, self.mean, self.norm, self.contrast) > 0


def anchored(
    loss_B: Tensor, clean_pred: Tensor, clean_reference: Tensor, noisy_BCKHW: Tensor, sigma_B: Tensor,
    weights: Anchors, given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Add the weighted terms to a loss per row.

    Returns:
        The loss, and per row (detached) ``kl_to_start``, ``mean_shift``, ``velocity_norm`` and ``contrast``, the
        last two as ratios to the reference.
    """
    kl_B = kl_velocity(clean_pred, clean_reference, sigma_B, given_K)
    shift_B = mean_shift(clean_pred, clean_reference, given_K)
    norm_B = velocity_ratio(clean_pred, clean_reference, noisy_BCKHW, given_K)
    contrast = contrast_ratio(clean_pred, clean_reference)
    loss_B = loss_B + weights.kl * kl_B + weights.mean * shift_B
    if weights.norm:
        loss_B = loss_B + weights.norm * excess(norm_B)
    if weights.contrast:
        loss_B = loss_B + weights.contrast * row_mean((contrast - 1).square(), given_K)
    measured = {"kl_to_start": kl_B, "mean_shift": shift_B, "velocity_norm": norm_B}
    measured["contrast"] = row_mean(contrast, given_K)
    return loss_B, {name: values_B.detach() for name, values_B in measured.items()}


@torch.no_grad()
def deviations(
    clean_pred: Tensor, clean_behaviour: Tensor, clean_target: Tensor, given_K: Tensor | None
) -> dict[str, Tensor]:
    """Mean squared distance from the behaviour, ``deviation``, and from the target, ``error``; (B,) each."""
    return {
        "deviation": row_mean((clean_pred - clean_behaviour).square(), given_K),
        "error": row_mean((clean_pred - clean_target).square(), given_K),
    }
