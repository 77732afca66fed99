"""Train the critics and the held-out judge on engine data, and test them against the engine's truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_out, add_seed, need_folder

EXAMPLES = """\
  worldcompass doom critics --data data/doom
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom critics``."""
    text = "data set made by `worldcompass doom collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/doom"), metavar="FOLDER", help=text)
    add_out(parser, "runs/critics", "where weights and accuracy tables go")
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Train the critics and the judge."""
    data = need_folder(args.data, "a data set made by `worldcompass doom collect`")
    from worldcompass.worlds.doom.critic_training.fit import train_critics

    train_critics(data, args.out, args.seed)
    return 0
