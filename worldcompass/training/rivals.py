"""Objectives of other methods: Flow-GRPO and DPO on the same rollouts and rewards, and continued pretraining.

They compare errors in a unit of length of their own (``selection.Drawn``). The signature is that of
``objective.Objective``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from worldcompass.training.objective import deviations, row_mean


def flow_grpo_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1e-3,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped objective of Flow-GRPO (arXiv 2505.05470) for single steps of a stochastic rollout.

    With the likelihood ratio ``r = exp((|c_b - t|^2 - |c - t|^2) / 2)`` of a step the loss is
    ``-min(r A, clip(r, 1 - beta, 1 + beta) A)``. Squares are means over a row, not sums, so that ``beta`` does not
    depend on the size of a latent.

    Args:
        clean_pred: (B, C, K, H, W), in deviations of the step, with gradient, as the next two.
        clean_behaviour: of the weights that imagined, without gradient.
        clean_target: the estimate with which the step would have had no noise.
        advantage_B: in [-1, 1].
        beta: distance of the ratio from 1 beyond which a row no longer pulls; above 0.
        given_K: bool (K,) or None.
    """
    behaviour = clean_behaviour.detach()
    before_B, now_B = (
        row_mean((clean - clean_target).square(), given_K) for clean in (behaviour, clean_pred)
    )
    ratio_B = ((before_B - now_B) / 2).exp()
    clipped_B = ratio_B.clamp(1 - beta, 1 + beta)
    loss_B = -torch.minimum(ratio_B * advantage_B, clipped_B * advantage_B)
    metrics = deviations(clean_pred, behaviour, clean_target, given_K)
    metrics["ratio"] = ratio_B.detach()
    metrics["at_clip"] = (ratio_B != clipped_B).to(ratio_B).detach()
    return loss_B, metrics


def dpo_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 100.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimisation in flow form (Diffusion-DPO, arXiv 2311.12908; Flow-DPO, arXiv 2501.13918).

    With m the winner's ``|v - v*|^2 - |v_b - v*|^2`` minus the loser's, the loss of both rows of a pair is
    ``-log sigmoid(-beta m / 2)``. Squares are means over a row. ``beta`` is the same at all levels, as Flow-DPO
    advises. A pair whose advantages are equal has no winner, and no loss.

    Args:
        clean_pred: (B, C, K, H, W), in units of the level, which makes its errors those of a velocity; with
            gradient. Even rows won, and the row after each lost, at the same level and noise.
        clean_behaviour: of the weights that the pair is compared by, without gradient.
        clean_target: the imagined futures.
        advantage_B: of both.
        beta: how far a pair is driven apart, the less the larger; above 0.
        given_K: bool (K,) or None.
    """
    behaviour = clean_behaviour.detach()
    error_B, before_B = (
        row_mean((clean - clean_target).square(), given_K) for clean in (clean_pred, behaviour)
    )
    gained_B = error_B - before_B
    margin_A = gained_B[0::2] - gained_B[1::2]
    differs_A = advantage_B[0::2] > advantage_B[1::2]
    loss_B = (softplus(beta / 2 * margin_A) * differs_A).repeat_interleave(2)
    metrics = deviations(clean_pred, behaviour, clean_target, given_K)
    metrics["preferred"] = (margin_A < 0).to(loss_B).detach().repeat_interleave(2)
    return loss_B, metrics


def flow_matching_loss(
    clean_pred: Tensor,
    clean_behaviour: Tensor,
    clean_target: Tensor,
    advantage_B: Tensor,
    beta: float = 1.0,
    given_K: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Continued pretraining: the mean squared error of the velocity, as estimates are in units of their level.

    The behaviour, the advantage and ``beta`` are not used.
    """
    loss_B = row_mean((clean_pred - clean_target).square(), given_K)
    return loss_B, {"error": loss_B.detach()}
