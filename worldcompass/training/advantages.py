"""Scores to advantages: centre, scale, balance and clip. Pure functions of scores_NGR.

Source: WorldCompass (arXiv 2602.09022), group-relative advantages. ``own_group``, ``all_groups`` and
``largest_group`` are its scales ``sample``, ``global`` and ``sample_max``. Invalid scores enter no mean and no
deviation, and their advantage is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.errors import UserError

STD_FLOOR = 1e-8  # added to every standard deviation, as in the official code
FLAT = 1e-6  # a span of scores below this share of their size is rounding, not signal

Scale = Callable[[Tensor, Tensor], Tensor]
"""(scores_NGR, valid_NGR) -> standard deviations that broadcast over (N, G, R)."""


class NonFiniteScore(UserError, ValueError):
    """A critic returned a score that is not finite and did not abstain."""


@dataclass(frozen=True)
class Advantages:
    """Advantages of all candidates of one step."""

    advantage_NG: Tensor
    """float32 in [-1, 1]: the weighted sum, clipped to +-a and divided by a."""
    ranking_NG: Tensor
    """float32: the sum before clipping, by which candidates are selected."""
    per_reward_NGR: Tensor
    """float32: the advantage of each reward alone, unweighted and unclipped."""
    flat_NR: Tensor
    """bool: groups in which a reward does not vary (its advantages are 0)."""
    each_NGK: Tensor | None = None
    """float32 in [-1, 1]: of each latent of the chunk, see ``latent_advantages``; None where clips are credited."""

    def of_groups(self, first: int, stop: int) -> Advantages:
        """The advantages of groups ``first`` to ``stop - 1``."""
        parts = {name: part[first:stop] for name, part in vars(self).items() if part is not None}
        return Advantages(**parts)


def masked_mean(scores: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of the valid entries over ``dims``, which stay as size 1; 0 without valid entries."""
    count = valid.sum(dims, keepdim=True).clamp_min(1)
    return torch.where(valid, scores, 0).sum(dims, keepdim=True) / count


def masked_std(scores: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Unbiased standard deviation of the valid entries over ``dims``, which stay as size 1; 0 below two entries."""
    squares = (
        torch.where(valid, scores - masked_mean(scores, valid, dims), 0).square().sum(dims, keepdim=True)
    )
    return (squares / (valid.sum(dims, keepdim=True) - 1).clamp_min(1)).sqrt()


def own_group(scores_NGR: Tensor, valid_NGR: Tensor) -> Tensor:
    """Standard deviation of each group (N, 1, R), so that all groups count the same."""
    return masked_std(scores_NGR, valid_NGR, (1,))


def all_groups(scores_NGR: Tensor, valid_NGR: Tensor) -> Tensor:
    """Standard deviation over all groups (1, 1, R), so that groups with little variation count little."""
    return masked_std(scores_NGR, valid_NGR, (0, 1))


def largest_group(scores_NGR: Tensor, valid_NGR: Tensor) -> Tensor:
    """The largest of the groups' standard deviations (1, 1, R)."""
    return own_group(scores_NGR, valid_NGR).amax(0, keepdim=True)


def group_advantages(
    scores_NGR: Tensor,
    valid_NGR: Tensor,
    weights_R: Tensor,
    scale: Scale = all_groups,
    clip: float = 2.0,
    reward_clip: float | None = None,
) -> Advantages:
    """Advantages of every candidate relative to its siblings.

    ``A_r = (s_r - mean_group) / (std + 1e-8)`` per reward, clipped to +-``reward_clip`` if set;
    ``A = sum_r w_r A_r / sum_r w_r``, clipped to +-``clip`` and divided by it. Computed in float64. A flat group
    gives exact zeros instead of amplified rounding.

    Args:
        scores_NGR: higher is better.
        valid_NGR: bool, False where a critic abstained.
        weights_R: non-negative, their sum positive.
        scale: one of ``own_group``, ``all_groups``, ``largest_group``, or another function of that form.
        clip: limit of the weighted sum, above 0.
        reward_clip: limit of every single reward, above 0, so that one critic's outlier cannot outweigh the other
            critics. No limit when None, as in the paper.

    Raises:
        ValueError: for shapes that disagree, or unusable weights or clips.
        NonFiniteScore: for valid scores that are not finite.
    """
    if scores_NGR.ndim != 3 or scores_NGR.shape != valid_NGR.shape or weights_R.shape != scores_NGR.shape[2:]:
        raise ValueError(
            f"expected scores and valid (N, G, R) with weights (R,), got {tuple(scores_NGR.shape)},"
            f" {tuple(valid_NGR.shape)} and {tuple(weights_R.shape)}"
        )
    finite = bool(weights_R.isfinite().all())
    if not finite or bool((weights_R < 0).any()) or not bool((weights_R > 0).any()):
        raise ValueError(
            f"weights must be finite, not negative and not all zero, got {[float(w) for w in weights_R]}"
        )
    if not clip > 0 or not (reward_clip is None or reward_clip > 0):
        raise ValueError(f"clip and reward_clip must be above 0, got {clip} and {reward_clip}")
    refuse_not_finite(scores_NGR, valid_NGR)
    scores = torch.where(valid_NGR, scores_NGR, 0).double()
    weights = weights_R.double() / weights_R.double().sum()
    flat = is_flat(scores, valid_NGR)
    centred = torch.where(valid_NGR & ~flat, scores - masked_mean(scores, valid_NGR, (1,)), 0)
    per_reward = centred / (scale(scores, valid_NGR) + STD_FLOOR)
    clipped = per_reward if reward_clip is None else per_reward.clamp(-reward_clip, reward_clip)
    ranking = (clipped * weights).sum(-1)
    advantage = ranking.clamp(-clip, clip) / clip
    return Advantages(advantage.float(), ranking.float(), per_reward.float(), flat.squeeze(1))


def latent_advantages(
    each_NGKR: Tensor,
    valid_NGR: Tensor,
    weights_R: Tensor,
    scale: Scale = all_groups,
    clip: float = 2.0,
    reward_clip: float | None = None,
) -> Tensor:
    """Advantages (N, G, K) of each latent: the same latent of all siblings is a group of its own.

    A clip's score is a mean over its latents, so the chance of all others is noise to each. Not in the paper.
    ``each_NGKR`` are scores of latents, the rest is as for ``group_advantages``, which may raise.
    """
    groups, _, count = each_NGKR.shape[:3]
    scores = each_NGKR.transpose(1, 2).flatten(0, 1)
    valid = valid_NGR[:, None].expand(-1, count, -1, -1).flatten(0, 1)
    found = group_advantages(scores, valid, weights_R, scale, clip, reward_clip)
    return torch.unflatten(found.advantage_NG, 0, (groups, count)).transpose(1, 2)


def refuse_not_finite(scores_NGR: Tensor, valid_NGR: Tensor, names: Sequence[str] | None = None) -> None:
    """Check that every valid score is finite.

    Args:
        names: of the R critics, for the error.

    Raises:
        NonFiniteScore: with the first critic that returned another score.
    """
    bad_R = (valid_NGR & ~scores_NGR.isfinite()).flatten(0, 1).any(0)
    if bool(bad_R.any()):
        first = int(bad_R.int().argmax())
        who = f"critic {names[first]}" if names else f"critic number {first + 1}"
        raise NonFiniteScore(
            f"the {who} returned a score that is not finite: let it abstain (valid False) instead"
        )


def damped(scores_NGR: Tensor, valid_NGR: Tensor) -> Tensor:
    """``sqrt(own^2 + mean of all groups' own^2)``, (N, 1, R), a compromise of ``own_group`` and ``all_groups``.

    Not in the paper. When most scores reach the maximum, ``all_groups`` lets a few groups dominate the update, and
    ``own_group`` amplifies the rounding of groups with little variation.
    """
    own = own_group(scores_NGR, valid_NGR)
    return (own.square() + own.square().mean(0, keepdim=True)).sqrt()


def is_flat(scores_NGR: Tensor, valid_NGR: Tensor) -> Tensor:
    """Groups without signal, bool (N, 1, R): fewer than two valid scores, or a span within rounding."""
    top = torch.where(valid_NGR, scores_NGR, -torch.inf).amax(1, keepdim=True)
    bottom = torch.where(valid_NGR, scores_NGR, torch.inf).amin(1, keepdim=True)
    size = torch.where(valid_NGR, scores_NGR.abs(), 0).amax(1, keepdim=True)
    return (valid_NGR.sum(1, keepdim=True) < 2) | (top - bottom <= FLAT * size)


def keep_extremes(ranking_NG: Tensor, best: int, worst: int) -> Tensor:
    """Indices (N, best + worst) of the best candidates, best first, then of the worst, worst last.

    Equal candidates keep their order.

    Raises:
        ValueError: when a group is too small for both ends.
    """
    if best < 0 or worst < 0 or not 0 < best + worst <= ranking_NG.shape[1]:
        raise ValueError(f"cannot keep {best} best and {worst} worst of {ranking_NG.shape[1]} candidates")
    order = ranking_NG.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :best], order[:, order.shape[1] - worst :]], 1)
