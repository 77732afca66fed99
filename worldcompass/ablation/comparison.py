"""What each row of a grid changes against the full method, with intervals over scenarios and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldcompass.ablation.compute import Cost, cost_of
from worldcompass.ablation.grid import Cell, Grid, Row, cell_of, cells_of
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, HELD_OUT, KINDS, MEASURES, Measured
from worldcompass.report.tables import Stored, reduce_run
from worldcompass.runs.metrics import read_metrics
from worldcompass.statistics import Estimate, crossed

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

    Intervals are over scenarios and seeds (``crossed``), and so wide that all variants of a measure together have
    the level of 95% (Bonferroni).

    Raises:
        UserError: when the results of a cell are malformed, or of other scenarios than the grid's.
    """
    found = {row.name: _stored(cells_of(grid, out), row) for row in grid.rows}
    _check_scenarios(grid, found)
    full, tried = found[grid.full.name], max(1, len(grid.variants))
    base = {seed: run.base for seed, run in full.items()}
    trained = {name: {seed: run.trained for seed, run in runs.items()} for name, runs in found.items()}
    first = _row(grid, grid.full, trained[grid.full.name], base, 1, out)
    return [
        first,
        *(_row(grid, row, trained[row.name], trained[grid.full.name], tried, out) for row in grid.variants),
    ]


def _row(
    grid: Grid, row: Row, own: Mapping[int, Measured], against: Mapping[int, Measured], tried: int, out: Path
) -> Compared:
    missing = tuple(seed for seed in grid.seeds if seed not in own)
    seeds = [seed for seed in against if seed in own]
    if not seeds:
        return Compared(row, tuple(own), missing)
    metrics = [read_metrics(cell_of(row, seed, out).folder.metrics) for seed in own]
    costs = [cost_of(steps) for steps in metrics]
    mean = Cost(sum(c.passes for c in costs) / len(costs), sum(c.seconds for c in costs) / len(costs))
    pairs = [(own[seed].select(HELD_OUT), against[seed].select(HELD_OUT)) for seed in seeds]
    level = 1 - (1 - LEVEL) / tried
    changes = {kind: differences(pairs, kind, level) for kind in KINDS if kind in pairs[0][0].kinds}
    return Compared(row, tuple(own), missing, max(map(len, metrics)), mean, changes)


def differences(pairs: Sequence[tuple[Measured, Measured]], kind: str, level: float) -> dict[str, Estimate]:
    """First minus second of each seed's pair on the same scenarios, by measure; of one kind of actions."""
    columns = [(_by_scenario(first, kind), _by_scenario(second, kind)) for first, second in pairs]
    return {name: crossed(np.stack([a[name] - b[name] for a, b in columns]), level) for name in columns[0][0]}


def _by_scenario(measured: Measured, kind: str) -> dict[str, np.ndarray]:
    """Every measure of the scenarios of a kind, each the mean over its videos, in the order of their names."""
    names = [name for name, own in zip(measured.scenarios, measured.kinds, strict=True) if own == kind]
    every, place = np.unique(names, return_inverse=True)
    return {
        measure: np.bincount(place, values_VD.mean(1)) / np.bincount(place, minlength=len(every))
        for measure, values_VD in measured.of_kind(kind).items()
    }


def _check_scenarios(grid: Grid, found: Mapping[str, Mapping[int, Stored]]) -> None:
    for name, runs in found.items():
        for seed, run in runs.items():
            if grid.scenarios and run.scenarios_hash != grid.scenarios:
                raise UserError(
                    f"{name}, seed {seed}, was evaluated on other scenarios than those that the grid fixed before"
                    " its first run: run it again with the grid's recipe"
                )


def _stored(cells: Sequence[Cell], row: Row) -> dict[int, Stored]:
    return {cell.seed: reduce_run(cell.path) for cell in cells if cell.row == row and cell.done}
