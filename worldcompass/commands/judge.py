"""Judge by what a viewer sees whether post-training changed the looks, against the base and the engine.

Several runs, the seeds of one recipe, give one judgement. The same command resumes a stopped judge. Exit code 0: no
gate says worse; 1: a gate says worse; 2: a usage error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_out, add_seed, check_device, positive
from worldcompass.errors import EXIT_DISEASED, UserError

if TYPE_CHECKING:
    from worldcompass.judging.verdict import Judgement

EXAMPLES = """\
  worldcompass judge runs/demo
  worldcompass judge runs/seed0 runs/seed1 runs/seed2 --out runs/judge_demo
  worldcompass judge runs/demo --scenarios 72               # faster, with wider intervals
"""
SHOWN = ("reachable", "engine", "other", "base", "trained")
"""Columns of the table, before the changes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass judge``."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="finished runs or folders of weights"
    )
    add_out(parser, "runs/judge", "where judgement.json and the videos go")
    text = "number of scenarios, at most 168 (default: %(default)s)"
    parser.add_argument("--scenarios", type=positive, default=168, metavar="N", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Make the videos, judge them, print and write the judgement."""
    for path in args.runs:
        if not path.exists():
            raise UserError(f"{path} does not exist: expected a run folder or a folder of weights")
    device = check_device(args.device)
    from worldcompass.judging.judge import judge, steps_of
    from worldcompass.judging.verdict import read_judgement, write_judgement
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import writable
    from worldcompass.worlds.doom.judging import sources_of

    writable(args.out)
    path = args.out / "judgement.json"
    sources = sources_of(args.runs, args.out, args.scenarios, args.seed, device)
    if not path.exists():
        with progress("judging", steps_of(sources)) as advance:
            write_judgement(path, judge(sources, args.seed, on_step=advance))
    judgement = read_judgement(path)
    print_judgement(judgement)
    print(f"wrote {path}")
    return EXIT_DISEASED if judgement.outcome == "worse" else 0


def print_judgement(judgement: Judgement) -> None:
    """Print the tables, the gates and the verdict."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.statistics import number

    console = Console()
    for part in dict.fromkeys(row.part for row in judgement.rows):
        rows = [row for row in judgement.rows if row.part == part]
        table = Table(title=f"{part} [95%]", box=SIMPLE)
        table.add_column("measure")
        columns = [name for name in SHOWN if any(name in row.values for row in rows)]
        for name in (*columns, "change", "good"):
            table.add_column(name, justify="right" if name != "good" else "left")
        for row in rows:
            cells = [number(row.values[name].mean) if name in row.values else "" for name in columns]
            changes = [
                str(v) if v.bounded else number(v.mean) for k, v in row.values.items() if k not in SHOWN
            ]
            table.add_row(row.name, *cells, "\n".join(changes), row.meaning)
        console.print(table)
    print(f"{judgement.scenarios} scenarios, {judgement.seeds} seed(s), {judgement.frames} frames")
    for gate in judgement.gates:
        print(f"  {gate.sentence}")
    print(judgement.sentence)
