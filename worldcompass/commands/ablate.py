"""Run a grid of recipes over seeds on equal compute, and report what each part of the method earns.

GRID is a shipped grid (hands_ablation, doom_ablation), or your own FILE.py with a variable GRID of the type
worldcompass.ablation.grid.Grid. A row is a recipe that changes one thing. Finished runs are kept: the command
resumes after Ctrl-C or kill, and with --report it only writes the report of what is there. A run that fails is
named, and the others go on. Exit code 1: a run failed or is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from worldcompass.commands._options import add_settings
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.ablation.grid import Grid

EXAMPLES = """\
  worldcompass ablate hands_ablation --out runs/ablation
  worldcompass ablate hands_ablation --rows positive_only random_rows --seeds 0 1 2
  worldcompass ablate hands_ablation --out runs/ablation --report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass ablate``."""
    from worldcompass.ablation.compute import Equal

    text = "hands_ablation, doom_ablation, or FILE.py with a variable GRID"
    parser.add_argument("grid", metavar="GRID", help=text)
    text = "folder of the runs and the report (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), metavar="FOLDER", help=text)
    text = "variants to run next to the full method (default: all)"
    parser.add_argument("--rows", nargs="+", default=None, metavar="NAME", help=text)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=None, metavar="N", help="default: those of the grid"
    )
    text = "what all rows spend alike: steps, forward passes of rollouts, or seconds (default: %(default)s)"
    parser.add_argument("--equal", choices=get_args(Equal), default="passes", help=text)
    text = "change a setting of all rows; may be repeated"
    add_settings(parser, text)
    parser.add_argument("--report", action="store_true", help="run nothing, and report what is there")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then write and print the report."""
    from worldcompass.ablation.comparison import compared
    from worldcompass.ablation.page import page_of
    from worldcompass.ablation.running import claim_grid, run_grid
    from worldcompass.errors import EXIT_DISEASED
    from worldcompass.media.progress import progress
    from worldcompass.runs.atomic import write_json, write_text
    from worldcompass.runs.folder import writable

    grid = _chosen(_grid_of(args.grid), args.rows, args.seeds)
    failed = 0
    if not args.report:
        _check_recipes(grid, args.assignments)
        writable(args.out)
        claim_grid(grid, args.equal, args.assignments, args.out)
        with progress("running the grid", len(grid.rows) * len(grid.seeds)) as advance:
            for finished in run_grid(grid, args.equal, args.assignments, args.out, print):
                advance()
                if finished.error:
                    failed += 1
                    print(
                        f"{finished.cell.row.name}, seed {finished.cell.seed}: {finished.error}", flush=True
                    )
    rows = compared(grid, args.out)
    page = page_of(grid, args.equal, rows)
    write_text(args.out / "report.md", page)
    write_json(
        args.out / "report.json", {"equal": args.equal, "rows": [row.to_json() for row in rows]}, indent=1
    )
    print(page, end="")
    print(f"wrote {args.out / 'report.md'} and {args.out / 'report.json'}")
    return EXIT_DISEASED if failed or any(row.missing for row in rows) else 0


def _grid_of(name: str) -> Grid:
    """The grid of a shipped module or of a file.

    Raises:
        UserError: when there is none.
    """
    from worldcompass.ablation.grid import Grid
    from worldcompass.recipes.load import load_module

    grid = getattr(load_module(name), "GRID", None)
    if not isinstance(grid, Grid):
        raise UserError(
            f"{name} has no grid: expected a variable GRID of the type worldcompass.ablation.grid.Grid"
        )
    return grid


def _chosen(grid: Grid, rows: list[str] | None, seeds: list[int] | None) -> Grid:
    from dataclasses import replace

    grid = grid if rows is None else grid.only(rows)
    try:
        return grid if seeds is None else replace(grid, seeds=tuple(seeds))
    except ValueError as why:
        raise UserError(f"--seeds: {why}") from why


def _check_recipes(grid: Grid, assignments: list[str]) -> None:
    """Load every recipe with its settings, so that a misspelt one is refused before the first run."""
    from worldcompass.recipes.load import make_recipe
    from worldcompass.recipes.overrides import override

    for row in grid.rows:
        override(make_recipe(row.recipe), assignments)
