"""Measurements of a training step for the doctor: rewards, pictures, gradients and weights.

All are cheap: pictures are read once per latent, weights in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from worldcompass.critic import Critic
from worldcompass.parallel.sharding import whole
from worldcompass.rollout import Futures
from worldcompass.runs.metrics import Pictures, RewardMetrics, Unreached
from worldcompass.training.advantages import Advantages, masked_mean, masked_std
from worldcompass.training.policy import Policy
from worldcompass.types import Group

WHITE = 255.0
NAMED = 8  # most names of parameters without a gradient in a row; their share counts all
_norm: Callable[[Tensor], Tensor] = cast("Any", torch.linalg).vector_norm  # torch has no type for it


@dataclass(frozen=True)
class Signal:
    """The learning signal of a step; fields as in ``StepMetrics``."""

    rewards: Mapping[str, RewardMetrics]
    flat_groups: float
    clipped: float
    agreement: Mapping[str, float]


@dataclass(frozen=True)
class Vitals:
    """Measurements of pictures and weights; fields as in ``StepMetrics``."""

    pictures: Pictures
    no_gradient: Unreached
    behaviour_lag: float


def reward_vitals(
    critics: Sequence[Critic],
    scores_NGR: Tensor,
    valid_NGR: Tensor,
    weights_R: Tensor,
    advantages: Advantages,
) -> Signal:
    """Statistics of a step's rewards and advantages.

    Invalid scores enter none of them; a critic's statistics are None with too few valid scores.
    """
    mean_R = masked_mean(scores_NGR, valid_NGR, (0, 1)).flatten()
    compared_N1R = valid_NGR.sum(1, keepdim=True) > 1
    std_R = masked_mean(masked_std(scores_NGR, valid_NGR, (1,)), compared_N1R, (0, 1)).flatten()
    spread_R, share_R = masked_std(scores_NGR, valid_NGR, (0, 1)).flatten(), weights_R / weights_R.sum()
    count_R, compared_R = valid_NGR.sum((0, 1)), compared_N1R.any(0).flatten()
    valid_R, flat_R = valid_NGR.double().mean((0, 1)), advantages.flat_NR.double().mean(0)
    rewards = {
        critic.name: RewardMetrics(
            mean=mean_R[r].item() if count_R[r] else None,
            std=std_R[r].item() if compared_R[r] else None,
            spread=spread_R[r].item() if count_R[r] > 1 else None,
            weight=share_R[r].item(),
            valid=valid_R[r].item(),
            flat=flat_R[r].item(),
        )
        for r, critic in enumerate(critics)
    }
    return Signal(
        rewards,
        advantages.flat_NR.all(1).double().mean().item(),
        (advantages.advantage_NG.abs() >= 1).double().mean().item(),
        {
            f"{critics[a].name} and {critics[b].name}": _correlation(
                advantages.per_reward_NGR[..., a], advantages.per_reward_NGR[..., b]
            )
            for a, b in combinations(range(len(critics)), 2)
        },
    )


@torch.no_grad()
def picture_vitals(groups: Sequence[Group]) -> Pictures:
    """Picture statistics at the last frame of every latent, averaged over groups and candidates."""
    rows = [vars(_of_group(group)) for group in groups]
    found = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return Pictures(**{name: sum(values) / len(values) if values else None for name, values in found.items()})


def without_gradient(policy: Policy) -> list[str]:
    """Names of the trainable parameters whose gradient is missing or exactly zero."""
    with_grad = {name: p.grad for name, p in policy.live.items() if p.grad is not None}
    if not with_grad:
        return list(policy.live)
    norms = torch.stack([whole(_norm(grad.float())) for grad in with_grad.values()]).cpu()
    reached = {name for name, norm in zip(with_grad, norms, strict=True) if float(norm) != 0}
    return [name for name in policy.live if name not in reached]


def step_vitals(futures: Sequence[Futures], missing: Sequence[str], policy: Policy) -> Vitals:
    """This process's pictures, parameters without a gradient, and behaviour lag."""
    pictures = picture_vitals([group for part in futures for group in part.groups])
    return Vitals(pictures, unreached(policy, missing), behaviour_lag(policy))


def unreached(policy: Policy, missing: Sequence[str]) -> Unreached:
    """The parameters without a gradient, as a share and their first names."""
    return Unreached(len(missing) / len(policy.live), tuple(missing[:NAMED]))


@torch.no_grad()
def behaviour_lag(policy: Policy) -> float:
    """Distance of the behaviour from the trained weights, as a share of theirs from the start; 0 to about 1."""
    lag = _distance(policy.parameters, list(policy.behaviour_weights.values()))
    way = _distance(policy.parameters, list(policy.reference_weights.values()))
    return lag / way if way else 0.0


def _of_group(group: Group) -> Pictures:
    frames, actions = group.transitions()
    ends = frames[:, :: group.frames_per_latent].float() / WHITE
    first = group.first_frame_3hw[None, None].float() / WHITE
    commanded = actions.commanded_K
    steps_GK = ends.diff(dim=1).abs().mean((-3, -2, -1))
    imagined = ends[:, 1:] if len(actions) else ends
    return Pictures(
        brightness=float(imagined.mean() - first.mean()),
        saturation=float(_saturation(imagined) - _saturation(first)),
        detail=float(_detail(imagined).log() - _detail(first).log()),
        motion=float(steps_GK[:, commanded].mean()) if bool(commanded.any()) else None,
        diversity=float(imagined.std(0).mean()) if len(imagined) > 1 else None,
        **_against_truth(group),
    )


def _against_truth(group: Group) -> dict[str, float]:
    """Log ratios to reachable truth over the chunk's frames; empty where that is unknown."""
    true_F3hw = group.reachable()
    if true_F3hw is None:
        return {}
    measures = {"true_detail": _detail, "true_contrast": _contrast, "true_saturation": _saturation}
    frames, true = group.frames_GF3hw.float() / WHITE, true_F3hw.float() / WHITE
    return {
        name: float(((of(frames) + 1 / WHITE) / (of(true) + 1 / WHITE)).log())
        for name, of in measures.items()
    }


def _saturation(frames: Tensor) -> Tensor:
    return (frames.amax(-3) - frames.amin(-3)).mean()


def _contrast(frames: Tensor) -> Tensor:
    """Mean over frames of the standard deviation of the brightness."""
    return frames.mean(-3).std((-2, -1)).mean()


def _detail(frames: Tensor) -> Tensor:
    """Mean absolute gradient of the brightness, plus one level of 255."""
    bright = frames.mean(-3)
    return bright.diff(dim=-1).abs().mean() + bright.diff(dim=-2).abs().mean() + 1 / WHITE


def _correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of two centred tensors over all entries."""
    size = _norm(a) * _norm(b)
    return float((a * b).sum() / size) if size > 0 else 0.0


def _distance(a: Sequence[nn.Parameter], b: Sequence[Tensor]) -> float:
    differences = (whole(_norm(x.detach() - y)) for x, y in zip(a, b, strict=True))
    return float(_norm(torch.stack([d.float() for d in differences])))
