"""Weights of the rewards at each step, as pure functions of the run's metrics.

There is no state besides ``metrics.jsonl``, so a resumed or rolled-back run gets the same weights as an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldcompass.runs.metrics import RewardMetrics, StepMetrics
from worldcompass.settings import Rule, enforce, named
from worldcompass.training.advantages import Scale, all_groups, damped, largest_group, own_group

History = Sequence[StepMetrics]
"""Metrics of the earlier steps, oldest first; ``chunk`` and each reward's ``mean`` and ``spread`` are read."""
Balance = Callable[[History, Sequence[str], Mapping[str, float]], Tensor]
"""(history, names of the R rewards, configured weights) -> weights (R,), non-negative, their sum positive."""

MEMORY = 10  # steps over which progress is averaged
TEMPERATURE = 0.5  # in spreads: a reward this far behind another one weighs e times as much
FLOOR = 0.1  # smallest share of a reward in the sum of weights, so that none is ignored


def fixed(history: History, names: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """The configured weights; 1 for rewards without one."""
    return torch.tensor([weights.get(name, 1.0) for name in names])


def soft_minimum(history: History, names: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """Configured weights, multiplied by a factor that favours the rewards with the least progress.

    ``w_r ~ exp(-progress_r / temperature)``, every share at least ``FLOOR``. The step then follows the gradient
    of the soft minimum ``-temperature log sum_r exp(-progress_r / temperature)`` of all progress. Progress is the
    change of a reward's mean since the first step on the same chunk, in units of the spread of that step, so
    neither scale nor offset of a reward matters. The factors are equal at first.
    """
    base = fixed(history, names, weights).double()
    share = torch.softmax(-progress(history, names) / TEMPERATURE, 0)
    floor = min(FLOOR, 1 / len(names))
    balanced = base * (floor + (1 - floor * len(names)) * share)
    return (balanced / balanced.sum()).float()


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """How the scores of critics become advantages."""

    weights: dict[str, float] = field(default_factory=dict[str, float])
    """Weight of each reward by its critic's name; 1 for rewards without one."""
    balance: Balance = field(default=fixed, metadata=named(fixed, soft_minimum))
    """``fixed``, or ``soft_minimum``: weights that follow each reward's progress."""
    scale: Scale = field(default=all_groups, metadata=named(all_groups, own_group, largest_group, damped))
    """``own_group``, ``all_groups``, ``largest_group``, or ``damped``, which is between the first two."""
    reward_clip: float | None = None
    """Limit (+-) of the advantages of each reward before weighting; no limit when None, as in the paper."""
    advantage_clip: float = 2.0
    """Limit (+-) of the advantages, by which they are then divided."""

    def __post_init__(self) -> None:
        enforce(
            vars(self),
            [
                Rule(
                    ("weights",),
                    all(math.isfinite(weight) and weight >= 0 for weight in self.weights.values()),
                    "weights must be finite and not negative",
                ),
                Rule(
                    ("reward_clip",),
                    self.reward_clip is None or self.reward_clip > 0,
                    "reward_clip must be positive or None",
                ),
                Rule(("advantage_clip",), self.advantage_clip > 0, "advantage_clip must be positive"),
            ],
        )


def progress(history: History, names: Sequence[str]) -> Tensor:
    """Progress of each reward in units of its first spread; float64 (R,), 0 before the first comparison.

    A step's gain is the difference to the first step on the same chunk, as later chunks score lower whatever is
    learned. Progress is the mean gain over the last ``MEMORY`` steps with a valid score.
    """
    first: dict[tuple[int, str], RewardMetrics] = {}
    gains: dict[str, list[float]] = {name: [] for name in names}
    for row in history:
        for name in names:
            now = row.rewards[name]
            if now.valid:  # a step without a valid score is neither a start nor a gain
                gains[name].append(gain(first.setdefault((row.chunk, name), now), now))
    recent = [gains[name][-MEMORY:] or [0.0] for name in names]
    return torch.tensor([sum(part) / len(part) for part in recent], dtype=torch.float64)


def gain(start: RewardMetrics, now: RewardMetrics) -> float:
    """Gain of a valid reward in units of the first spread; 0 when that is 0."""
    assert now.mean is not None and start.mean is not None, "valid scores have a mean"
    return (now.mean - start.mean) / start.spread if start.spread else 0.0
