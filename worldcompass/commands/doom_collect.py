"""Record training data in the engine: frames, commands, and the motion that really happened.

The same seed gives the same data. The same command resumes a stopped collection.
"""

from __future__ import annotations

import argparse

from worldcompass.commands._options import add_out, add_seed, positive

EXAMPLES = """\
  worldcompass doom collect
  worldcompass doom collect --frames 200000 --workers 2 --out data/small
  worldcompass doom collect --maps my_way_home maps.wad:MAP01 --frames 50000
"""

DEFAULT_FRAMES = 360_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass doom collect``."""
    add_out(parser, "data/doom", "where the data set goes")
    add_seed(parser)
    text = "frames to record over all maps (default: %(default)s)"
    parser.add_argument("--frames", type=positive, default=DEFAULT_FRAMES, metavar="N", help=text)
    text = "engines that run in parallel (default: %(default)s)"
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help=text)
    text = "levels, maps of ViZDoom or PATH.wad:MAP to record instead of the standard levels"
    parser.add_argument("--maps", nargs="+", default=None, metavar="MAP", help=text)


def run(args: argparse.Namespace) -> int:
    """Collect the data set."""
    from worldcompass.worlds.doom.engine.collect import collect

    collect(out=args.out, frames=args.frames, seed=args.seed, workers=args.workers, maps=args.maps)
    return 0
