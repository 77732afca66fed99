"""Do policies succeed in the Hands world model as they do in the engine, and does post-training help?

Twelve scripted policies pick up the cup and push the ball to the left, in the engine, in the base and in a
post-trained world. The same command resumes a stopped measurement.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_out, check_device, positive
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.worlds.hands.policies.agreement import PolicyResults

EXAMPLES = """\
  worldcompass hands policies --scenes 10                  # the base alone, in minutes
  worldcompass hands policies --after runs/hands_demo --seeds 3
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands policies``."""
    text = "run folder or folder of weights to compare with the base (default: the base alone)"
    parser.add_argument("--after", type=Path, default=None, metavar="RUN", help=text)
    text = "run folder or folder of weights of the base (default: the shipped weights)"
    parser.add_argument("--before", type=Path, default=None, metavar="RUN", help=text)
    text = "scenes of each task (default: %(default)s)"
    parser.add_argument("--scenes", type=positive, default=40, metavar="N", help=text)
    text = "split of the scenes, such as heldout or unseen_looks (default: %(default)s)"
    parser.add_argument("--split", default="heldout", metavar="NAME", help=text)
    text = "noise seeds of the world models, 0 to N - 1 (default: %(default)s)"
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help=text)
    add_out(parser, "runs/hands_policies", "where policies.json, the page and the outcomes go")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Try the policies, count, print and write the page."""
    device = check_device(args.device)
    from worldcompass.media.progress import progress
    from worldcompass.runs.folder import claim, weights_folder
    from worldcompass.worlds.hands.policies.agreement import results_of, write_results
    from worldcompass.worlds.hands.policies.page import write_page
    from worldcompass.worlds.hands.policies.trials import BASE, TRAINED, Scenes, Trials
    from worldcompass.worlds.hands.world import WEIGHTS, load_hands_world

    named = {BASE: args.before} if args.after is None else {BASE: args.before, TRAINED: args.after}
    folders = {
        side: None if path is None else weights_folder(path, WEIGHTS.net) for side, path in named.items()
    }
    weights = {side: f"{named[side] or 'shipped'} ({WEIGHTS.fingerprint(f)})" for side, f in folders.items()}
    facts = {"split": args.split, "scenes": args.scenes, "seeds": args.seeds, "weights": weights}
    scenes = Scenes.draw(args.split, args.scenes)
    record = args.out / "trials.json"
    known = claim(args.out, record, facts, "trials of policies")
    if known not in (None, facts):
        raise UserError(f"{args.out} holds trials of other scenes, seeds or weights: choose another --out")
    worlds = {side: load_hands_world(folder, device) for side, folder in folders.items()}
    trials = Trials(args.out / "outcomes", scenes, worlds, tuple(range(args.seeds)))
    with progress("policies", len(trials.blocks())) as advance:
        trials.run(advance)
    results = results_of(trials, weights)
    write_results(args.out / "policies.json", results)
    print_results(results)
    print(f"wrote {write_page(args.out / 'policies.html', results)}")
    return 0


def print_results(results: PolicyResults) -> None:
    """Print the tables and the verdict."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.statistics import number
    from worldcompass.worlds.hands.policies.page import MEASURE_WORDS, SIDE_WORDS

    console = Console()
    table = Table(title="Episodes in which the task was done [95%]", box=SIMPLE)
    sides = list(results.rows[0].success)
    for column in ("task", "policy", *(SIDE_WORDS[side] for side in sides)):
        table.add_column(column, justify="left" if column in ("task", "policy") else "right")
    for row in results.rows:
        table.add_row(row.task, row.policy, *(row.success[side].in_percent(digits=0) for side in sides))
    console.print(table)
    table = Table(title="Against the engine [95% over scenes]", box=SIMPLE)
    for column in ("task", "side", *MEASURE_WORDS.values()):
        table.add_column(column, justify="left" if column in ("task", "side") else "right")
    for one in results.agreements:
        values = (one.measures[name] for name in MEASURE_WORDS)
        cells = (f"{number(v.mean)} [{number(v.low)}, {number(v.high)}]" for v in values)
        table.add_row(one.task, SIDE_WORDS[one.side], *cells)
    console.print(table)
    print(results.verdict)
