"""How much each reward weighs at a step: pure functions of what the run has logged so far.

Nothing is kept but ``metrics.jsonl``, so that a resumed or rolled-back run weighs as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldcompass.runs.metrics import RewardMetrics, StepMetrics
from worldcompass.settings import Rule, enforce
from worldcompass.training.advantages import Scale, all_groups

History = Sequence[StepMetrics]
"""What the steps before measured, oldest first: ``chunk`` and, per reward, ``mean`` and ``spread``."""
Balance = Callable[[History, Sequence[str], Mapping[str, float]], Tensor]
"""(history, names of the R rewards, configured weights) -> weights (R,), non-negative, their sum positive."""

MEMORY = 10  # steps over which progress is averaged
TEMPERATURE = 0.5  # spreads: a reward this far behind another one weighs e times as much
FLOOR = 0.1  # of the sum of weights that every reward keeps at least, so that none stops being heard


def fixed(history: History, names: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """The configured weights, 1 where a reward is not named."""
    return torch.tensor([weights.get(name, 1.0) for name in names])


def soft_minimum(history: History, names: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """Configured weights times what it takes to raise the smallest progress: no reward pays for another.

    ``w_r ~ exp(-progress_r / temperature)``, every share at least ``FLOOR``: the step then follows the gradient
    of the soft minimum ``-temperature log sum_r exp(-progress_r / temperature)`` of all progress. Progress is how
    far a reward's mean has come since its chunk was first trained, in units of its spread then, so neither scale
    nor offset of a reward matters. It starts from equal weights of rewards that are normalised one by one.
    """
    base = fixed(history, names, weights).double()
    share = torch.softmax(-progress(history, names) / TEMPERATURE, 0)
    floor = min(FLOOR, 1 / len(names))
    balanced = base * (floor + (1 - floor * len(names)) * share)
    return (balanced / balanced.sum()).float()


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """How the scores of critics become advantages."""

    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each reward by its critic's name; 1 where not named."""
    balance: Balance = fixed
    """``fixed``, or ``soft_minimum``: weights that follow each reward's progress."""
    scale: Scale = all_groups
    """``own_group``, ``all_groups``, ``largest_group``, or ``damped``, which is between the first two."""
    reward_clip: float | None = None
    """Before they are weighed, the advantages of each reward are clipped to +-this; None, as in the paper: not."""
    advantage_clip: float = 2.0
    """Advantages are clipped to +-this and divided by it."""

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
    """How far each reward has come, in spreads of its beginning; float64 (R,), 0 before there is a comparison.

    The mean over the last ``MEMORY`` steps in which its critic spoke, of the difference to the first such step on
    the same chunk: later chunks score lower whatever is learned.
    """
    first: dict[tuple[int, str], RewardMetrics] = {}
    gains: dict[str, list[float]] = {name: [] for name in names}
    for row in history:
        for name in names:
            now = row.rewards[name]
            if now.valid:  # where its critic said nothing, a reward neither begins nor comes on
                gains[name].append(_gain(first.setdefault((row.chunk, name), now), now))
    recent = [gains[name][-MEMORY:] or [0.0] for name in names]
    return torch.tensor([sum(part) / len(part) for part in recent], dtype=torch.float64)


def _gain(start: RewardMetrics, now: RewardMetrics) -> float:
    """0 where everything scored the same."""
    assert now.mean is not None and start.mean is not None, "a critic that spoke has a mean"
    return (now.mean - start.mean) / start.spread if start.spread else 0.0
