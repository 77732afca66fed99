"""What each row of a grid changes against the full method, with intervals over scenarios and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worldcompass.ablation.compute import Cost, cost_of
from worldcompass.ablation.grid import Cell, Grid, Row, cell_of, cells_of
from worldcompass.evaluate import FOLLOWED, KINDS, MEASURES, evaluation_of, pool
from worldcompass.report.tables import Stored, reduce_run
from worldcompass.runs.metrics import read_metrics
from worldcompass.runs.results import Evaluation
from worldcompass.statistics import Estimate

LEVEL = 0.95  # of all intervals of one measure together
Verdict = Literal["the full method", "worse", "better", "mixed", "no difference shown", "unfinished"]
BASE = "base"
"""The row of the weights before training."""


@dataclass(frozen=True)
class Compared:
    """A row next to the full method, on the seeds that both have."""

    row: Row
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    """Seeds without results."""
    steps: int = 0
    """Optimiser steps of a run."""
    cost: Cost | None = None
    """Of the training of a run, on average."""
    changes: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict[str, Mapping[str, Estimate]])
    """Row minus full method, by kind of actions and measure; higher is better for every measure."""

    @property
    def verdict(self) -> Verdict:
        """What the changes of ``judged`` measures say together."""
        if not self.changes:
            return "unfinished"
        found = [
            value for of_kind in self.changes.values() for name, value in of_kind.items() if judged(name)
        ]
        better, worse = any(value.rises for value in found), any(value.falls for value in found)
        if better and worse:
            return "mixed"
        return "worse" if worse else "better" if better else "no difference shown"

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "row": self.row.name,
            "recipe": self.row.recipe,
            "changes": self.row.changes,
            "verdict": self.verdict,
            "seeds": list(self.seeds),
            "missing": list(self.missing),
            "steps": self.steps,
            "cost": None if self.cost is None else vars(self.cost),
            "differences": {
                kind: {name: value.to_json() for name, value in of_kind.items()}
                for kind, of_kind in self.changes.items()
            },
        }


def judged(measure: str) -> bool:
    """Whether a measure takes part in a verdict: followed actions, and the measures that a world brings itself.

    The others, such as sharpness, are shown alone: on each of them a worse video can score higher.
    """
    return measure == FOLLOWED or measure not in MEASURES


def compared(grid: Grid, out: Path) -> list[Compared]:
    """Every row of a grid, the full method against the base weights first.

    Intervals are so wide that all variants of a measure together have the level of 95% (Bonferroni).

    Raises:
        UserError: when the results of a cell are malformed.
    """
    found = {row.name: _stored(cells_of(grid, out), row) for row in grid.rows}
    full, tried = found[grid.full.name], max(1, len(grid.variants))
    first = _row(grid, grid.full, full, _against_base(full), 1, out)
    return [
        first,
        *(
            _row(grid, row, found[row.name], _against(full, found[row.name]), tried, out)
            for row in grid.variants
        ),
    ]


def _row(
    grid: Grid, row: Row, own: Mapping[int, Stored], found: Evaluation | None, tried: int, out: Path
) -> Compared:
    missing = tuple(seed for seed in grid.seeds if seed not in own)
    if found is None:
        return Compared(row, tuple(own), missing)
    metrics = [read_metrics(cell_of(row, seed, out).folder.metrics) for seed in own]
    costs = [cost_of(steps) for steps in metrics]
    mean = Cost(sum(c.passes for c in costs) / len(costs), sum(c.seconds for c in costs) / len(costs))
    wanted = 1 - (1 - LEVEL) / tried
    changes = {
        kind: {name: value.wider(LEVEL, wanted) for name, value in of_kind.items()}
        for kind, of_kind in found.difference.items()
        if kind in KINDS
    }
    return Compared(row, tuple(own), missing, max(map(len, metrics)), mean, changes)


def _stored(cells: Sequence[Cell], row: Row) -> dict[int, Stored]:
    return {cell.seed: reduce_run(cell.path) for cell in cells if cell.row == row and cell.done}


def _against_base(full: Mapping[int, Stored]) -> Evaluation | None:
    runs = list(full.values())
    if not runs:
        return None
    return evaluation_of(runs[0].engine, pool([r.base for r in runs]), pool([r.trained for r in runs]))


def _against(full: Mapping[int, Stored], row: Mapping[int, Stored]) -> Evaluation | None:
    seeds = [seed for seed in full if seed in row]
    if not seeds:
        return None
    before, after = (pool([runs[seed].trained for seed in seeds]) for runs in (full, row))
    return evaluation_of(full[seeds[0]].engine, before, after)
