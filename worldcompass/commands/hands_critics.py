"""Train the network of the Hands critics and the held-out judge of actions on recordings.

The same command resumes a stopped training. Finished files are skipped; delete one to train it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_out, add_seed, need_folder

EXAMPLES = """\
  worldcompass hands critics --data data/hands
  worldcompass hands critics --data data/hands --start worldcompass/worlds/hands/weights
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands critics``."""
    text = "data set made by `worldcompass hands collect` (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=Path("data/hands"), metavar="FOLDER", help=text)
    add_out(parser, "runs/hands_critics", "where the weights go")
    text = "train the reader of this folder further, and keep its judge"
    parser.add_argument("--start", type=Path, metavar="FOLDER", help=text)
    add_seed(parser)


def run(args: argparse.Namespace) -> int:
    """Train the critics and the judge."""
    data = need_folder(args.data, "a data set made by `worldcompass hands collect`")
    from worldcompass.worlds.hands.critic_training.fit import train_critics

    start = args.start and need_folder(args.start, "a folder of the critics' weights")
    print(f"wrote {train_critics(data, args.out, args.seed, start)}")
    return 0
