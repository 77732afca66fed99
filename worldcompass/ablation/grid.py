"""A grid: the full method and its variants, each of which changes one thing, over several seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.runs.folder import RunFolder

FEWEST_SEEDS = 2  # for an interval over seeds
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Row:
    """One recipe of a grid."""

    name: str
    """Also that of its folder: small letters, digits, ``-`` and ``_``."""
    recipe: str
    """As for ``worldcompass train``, such as ``hands_ablation:positive_only``."""
    changes: str = ""
    """What it changes, for people."""
    trains: bool = True
    """Whether it takes steps for the compute of the full method; else those of its recipe."""


@dataclass(frozen=True)
class Grid:
    """The full method, its variants, and the seeds of all of them."""

    full: Row
    variants: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    curriculum: int = 1
    """Steps after which the curriculum repeats; the cost of a step is measured over them."""
    scenarios: str = ""
    """``evaluate.scenarios_hash`` of the evaluation, fixed before the first run; any when empty."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if wrong := [name for name in names if not _NAME.fullmatch(name)]:
            raise ValueError(f"a row is named {wrong[0]!r}: expected small letters, digits, - and _")
        if len(set(names)) < len(names):
            raise ValueError(f"two rows of the grid share a name: {', '.join(names)}")
        if len(set(self.seeds)) < max(len(self.seeds), FEWEST_SEEDS):
            raise ValueError(f"the seeds are {self.seeds}: expected {FEWEST_SEEDS} or more different ones")
        if self.curriculum < 1:
            raise ValueError(f"curriculum is {self.curriculum}: expected 1 step or more")

    @property
    def rows(self) -> tuple[Row, ...]:
        """The full method first."""
        return self.full, *self.variants

    def only(self, names: Sequence[str]) -> Grid:
        """The grid with some of its variants.

        Raises:
            UserError: for an unknown name.
        """
        known = [row.name for row in self.variants]
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"there is no row {unknown[0]!r}: this grid has {', '.join(known)}")
        return replace(self, variants=tuple(row for row in self.variants if row.name in names))


def rows_of(
    module: str, recipes: Sequence[Callable[[], object]], untrained: Sequence[Callable[[], object]] = ()
) -> tuple[Row, ...]:
    """A row for every recipe of a module, with the name and the first words of the function.

    Args:
        module: as for ``worldcompass train``.
        recipes: functions of the module.
        untrained: those that take no steps.
    """
    return tuple(
        Row(
            make.__name__,
            f"{module}:{make.__name__}",
            (make.__doc__ or "").rstrip(".").lower(),
            trains=make not in untrained,
        )
        for make in recipes
    )


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a row with a seed."""

    row: Row
    seed: int
    path: Path

    @property
    def folder(self) -> RunFolder:
        """Its run."""
        return RunFolder(self.path)

    @property
    def done(self) -> bool:
        """Whether the run has its results."""
        return self.folder.results.is_file()


def cell_of(row: Row, seed: int, out: Path) -> Cell:
    """The run of a row with a seed in the grid's folder."""
    return Cell(row, seed, out / row.name / f"seed{seed}")


def cells_of(grid: Grid, out: Path) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted grid has whole seeds first; the full method leads each."""
    return [cell_of(row, seed, out) for seed in grid.seeds for row in grid.rows]
