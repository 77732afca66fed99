"""Judge by what a viewer sees whether post-training changed the looks, against the base and the engine.

Worlds without an engine are judged by recordings of the real thing: a folder of videos, each with its actions or
camera poses in a JSON file next to it. Several runs, the seeds of one recipe, give one judgement. The same command
resumes a stopped judge. Exit code 0: no gate says worse; 1: a gate says worse; 2: a usage error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import (
    add_device,
    add_out,
    add_seed,
    add_settings,
    check_checkpoint,
    check_device,
    need_folder,
    positive,
)
from worldcompass.commands._worlds import add_world, check_world, is_open, open_recipe, world_maker, world_of
from worldcompass.errors import EXIT_DISEASED, UserError
from worldcompass.recipes.catalogue import EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.judging.sources import Sources
    from worldcompass.judging.verdict import Judgement

EXAMPLES = """\
  worldcompass judge runs/demo
  worldcompass judge runs/seed0 runs/seed1 runs/seed2 --out runs/judge_demo
  worldcompass judge runs/demo --scenarios 168              # slower, with narrower intervals
  worldcompass judge runs/demo --quick                      # the gates alone
  worldcompass judge runs/other --reuse runs/judge          # takes the videos of engine and base from there
  worldcompass judge runs/lora8 --world worldplay_8b:lora --recordings recordings
  worldcompass judge my_weights --world my_world.py:make --recordings recordings
"""
SHOWN = ("reachable", "engine", "other", "base", "trained")
"""Columns of the table, before the changes."""
SHORT = {"better": "nearer", "worse": "farther", "undecided": "not shown"}
WIDTH = 110
SCENARIOS = 72  # of Doom, where --scenarios does not say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass judge``."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="finished runs or folders of weights"
    )
    add_out(parser, "runs/judge", "where judgement.json and the videos go")
    add_world(parser)
    text = (
        "number of scenarios (default: 72, at most 168; of hands 24, which are all; half of the recordings)"
    )
    parser.add_argument("--scenarios", type=positive, metavar="N", help=text)
    text = "folder of videos with JSON files of actions, for worlds without an engine"
    parser.add_argument("--recordings", type=Path, metavar="FOLDER", help=text)
    text = "with --recordings: latents of every video (default: %(default)s)"
    parser.add_argument("--latents", type=positive, default=32, metavar="M", help=text)
    text = "denoising steps of a WorldPlay recipe (default: the world's own)"
    parser.add_argument("--steps", type=positive, default=None, metavar="N", help=text)
    text = "change a setting of a WorldPlay recipe; may be repeated"
    add_settings(parser, text)
    text = "the gates alone, with linear tests: a third of the time for judging"
    parser.add_argument("--quick", action="store_true", help=text)
    text = "take the videos of the engine and the base from the judge of another run"
    parser.add_argument("--reuse", type=Path, metavar="FOLDER", help=text)
    text = "print every measure, with its floor and ceiling"
    parser.add_argument("--details", action="store_true", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Make the videos, judge them, print and write the judgement."""
    for path in args.runs:
        check_checkpoint(path)
    args.world = world_of(args.world, args.runs)
    device = check_device(args.device)
    from worldcompass.judging.classifier import GATES_ALONE, Asked
    from worldcompass.judging.judge import judge, steps_of
    from worldcompass.judging.verdict import read_judgement, write_judgement
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import writable

    find, count = _real_side(args, device)
    writable(args.out)
    asked = GATES_ALONE if args.quick else Asked()
    path = args.out / ("judgement_quick.json" if args.quick else "judgement.json")
    sources = find(args.runs, args.out, count, args.seed, device, reuse=args.reuse)
    if not path.exists():
        with progress("judging", steps_of(sources, asked)) as advance:
            write_judgement(path, judge(sources, args.seed, asked, advance))
    judgement = read_judgement(path)
    if args.details:
        print_rows(judgement)
    print_gates(judgement)
    print(judgement.sentence)
    print(f"wrote {path}")
    return EXIT_DISEASED if judgement.outcome == "worse" else 0


def _real_side(args: argparse.Namespace, device: str) -> tuple[Callable[..., Sources], int]:
    """The function that makes or finds all videos of the judge, and the number of scenarios."""
    from worldcompass.judging.court import sources_of

    if args.world in EMBEDDED:
        if args.recordings is not None:
            raise UserError(f"--world {args.world} has its own scenarios: leave out --recordings")
        if args.world == HANDS:
            from worldcompass.worlds.hands.judging import MOST, court

            return partial(sources_of, court()), args.scenarios or MOST
        from worldcompass.worlds.doom.judging import court

        return partial(sources_of, court()), args.scenarios or SCENARIOS
    check_world(args.world)
    if args.recordings is None:
        raise UserError(
            f"--world {args.world} has no engine: give recordings of the real thing with --recordings"
        )
    from worldcompass.recordings import videos_in

    folder = need_folder(args.recordings, "recordings")
    recordings = videos_in(folder)
    if is_open(args.world):
        from worldcompass.worlds.open import judging

        recipe = open_recipe(args.world, args.assignments)
        recipe.check_world()
        found = judging.court(recipe, folder, args.latents, args.steps, device)
    else:
        from worldcompass.judging.recorded import own_court
        from worldcompass.recipes.load import parts_of
        from worldcompass.runs.requirements import digest_of

        base = f"{args.world} {digest_of(Path(parts_of(args.world)[0]))}"
        found = own_court(world_maker(args.world), base, folder, args.latents, device)
    return partial(sources_of, found), args.scenarios or len(recordings) // 2


def print_gates(judgement: Judgement) -> None:
    """Print what every gate says of the whole video and of its end."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.judging.sources import STRETCHES

    many = "s" * (judgement.seeds > 1)
    table = Table(
        title=f"Trained against base, {judgement.scenarios} scenarios of {judgement.frames} frames, "
        f"{judgement.seeds} seed{many}: nearer to the real thing? [95%]",
        box=SIMPLE,
    )
    table.add_column("gate")
    for stretch in STRETCHES:
        table.add_column(stretch)
    by_name = {gate.name: gate for gate in judgement.gates}
    for name in dict.fromkeys(gate.name.rpartition(", ")[0] for gate in judgement.gates):
        gates = [by_name[f"{name}, {stretch}"] for stretch in STRETCHES]
        table.add_row(name, *(f"{SHORT[gate.outcome]}: {gate.change}" for gate in gates))
    Console(width=WIDTH).print(table)


def print_rows(judgement: Judgement) -> None:
    """Print everything that explains the gates."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.statistics import number

    console = Console(width=WIDTH)
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
