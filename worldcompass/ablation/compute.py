"""Equal compute: how many steps a row may take for what the full method spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worldcompass.runs.metrics import StepMetrics

Equal = Literal["steps", "passes", "seconds"]
"""What all rows share: optimiser steps, forward passes, or seconds of training."""
SLACK = 0.05  # share by which the costs of two rows may differ before one gets another number of steps


@dataclass(frozen=True)
class Cost:
    """What training spends, without evaluation."""

    passes: float
    """Forward passes of rollouts, targets and updates; a backward pass counts as two."""
    seconds: float

    def of(self, equal: Equal) -> float:
        """The number that ``equal`` names, 1 for steps."""
        return {"steps": 1.0, "passes": self.passes, "seconds": self.seconds}[equal]


def cost_of(metrics: Sequence[StepMetrics]) -> Cost:
    """The cost of some steps together."""
    return Cost(
        sum((step.forward_passes or 0.0) + (step.update_passes or 0.0) for step in metrics),
        sum(sum(step.seconds.values()) for step in metrics),
    )


def fair_steps(full_steps: int, full: Cost, row: Cost, equal: Equal) -> int:
    """Steps of a row that cost as much as those of the full method; the same number when the costs hardly differ.

    Args:
        full_steps: steps of the full method.
        full: its cost over one pass through the curriculum.
        row: the row's cost over as many steps.
        equal: what is shared.
    """
    ratio = full.of(equal) / row.of(equal)
    return full_steps if abs(ratio - 1) <= SLACK else max(1, round(full_steps * ratio))
