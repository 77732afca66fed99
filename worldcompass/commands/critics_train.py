"""Train a critic of controls on your own recordings: it reads from pixels what was commanded between frames.

FOLDER holds videos, each with its commands in a JSON file next to it, or a data set of an embedded world. Every
fifth recording is held out, and the command says how well each control is read there. The same command resumes a
stopped training, and with more minutes it goes on. Exit code 0: every control is read; 1: some are not; 2: a usage
error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_out, add_seed, minutes, need_folder, positive
from worldcompass.commands._recorded import recorded
from worldcompass.errors import EXIT_DISEASED

if TYPE_CHECKING:
    from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics

EXAMPLES = """\
  worldcompass critics train --data recordings --world my_world.py:make
  worldcompass critics train --data recordings --world worldplay_8b --minutes 20
  worldcompass critics train --data data/hands --world hands --out critics/hands
  worldcompass audit inverse_dynamics=critics/hands/inverse_dynamics.safetensors --world hands
  worldcompass train hands_demo --set inverse_dynamics=critics/hands/inverse_dynamics.safetensors \\
    --set inverse_dynamics_weight=1 --set interaction_weight=0
"""
WORLD = (
    "whose controls: doom, hands, a recipe of an open checkpoint, or your own FILE.py:FUNCTION (default: that of a"
    " data set)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass critics train``."""
    text = "folder of recordings: videos with JSON files, or a data set made by `worldcompass WORLD collect`"
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help=text)
    parser.add_argument("--world", default=None, metavar="WORLD", help=WORLD)
    add_out(parser, "critics", "where the critic's file, its curve and its state go")
    text = "minutes of training, converted into steps at its start (default: %(default)s)"
    parser.add_argument("--minutes", type=minutes, default=5.0, metavar="M", help=text)
    text = "train for this number of steps instead, which every machine repeats"
    parser.add_argument("--steps", type=positive, default=None, metavar="N", help=text)
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Train the critic, and say what it reads."""
    data = need_folder(args.data, "recordings: videos with JSON files, or a data set")
    from worldcompass.rewards.inverse_dynamics.fit import train_critic
    from worldcompass.rewards.inverse_dynamics.measure import warnings_of
    from worldcompass.runs.folder import writable

    writable(args.out)
    spec, learned, held_out = recorded(args.world, data)
    critic = train_critic(spec, learned, held_out, args.out, args.minutes, args.seed, args.steps)
    print_reading(critic)
    for sentence in (found := warnings_of(critic.facts)):
        print(f"warning: {sentence}")
    print(f"wrote {args.out / 'inverse_dynamics.safetensors'}")
    return EXIT_DISEASED if found else 0


def print_reading(critic: InverseDynamics) -> None:
    """Print how well each control is read in held-out recordings, and what scores are worth."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from worldcompass.statistics import percent

    facts = critic.facts
    title = f"read in {len(facts.held_out)} held-out recordings, {facts.steps} steps"
    table = Table(title=title, box=SIMPLE)
    for name in ("control", "right [95%]", "guessing", "error", "counts"):
        table.add_column(name, justify="left" if name == "control" else "right")
    for axis, read in zip(facts.panel.axes, facts.reads, strict=True):
        guess, error = percent(read.guessing, 0), percent(read.error, 0)
        right = read.right.in_percent(digits=0)
        table.add_row(axis.name, right, guess, error, "yes" if read.readable else "no")
    Console().print(table)
    true, other = (score.in_percent(digits=0) for score in (facts.true, facts.other))
    print(f"scores of true commands {true}, of others {other}")
