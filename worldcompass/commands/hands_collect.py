"""Record training data in the Hands engine: frames, commands, and where the gripper and all things really were.

The same scenes give the same data. The same command resumes a stopped collection; with larger numbers it adds
episodes.
"""

from __future__ import annotations

import argparse

from worldcompass.commands._options import add_out, positive

EXAMPLES = """\
  worldcompass hands collect
  worldcompass hands collect --train 500 --heldout 50 --out data/small
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass hands collect``."""
    add_out(parser, "data/hands", "where the data set goes")
    for split, count in (("train", 6000), ("heldout", 300)):
        text = f"{split} episodes of 81 frames, 1.3 MB each, in shards of 25 (default: %(default)s)"
        parser.add_argument(f"--{split}", type=positive, default=count, metavar="N", help=text)
    text = "engines that run in parallel (default: %(default)s)"
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    """Collect the data set."""
    from worldcompass.worlds.hands.collect import collect

    collect(args.out, {"heldout": args.heldout, "train": args.train}, args.workers)
    return 0
