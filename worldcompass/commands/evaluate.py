"""Score a world model on the fixed scenarios with the held-out judge, beside the engine itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldcompass.commands._options import add_device, add_out, add_seed, check_device
from worldcompass.errors import UserError

EXAMPLES = """\
  worldcompass evaluate                                # the shipped weights
  worldcompass evaluate --checkpoint runs/demo --frames 253
"""

FRAMES = (125, 253, 381)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass evaluate``."""
    text = "run folder or weights file (default: the shipped weights)"
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="PATH", help=text)
    add_out(parser, "runs/evaluate", "where results.json goes")
    text = "length of the rollouts (default: %(default)s)"
    parser.add_argument("--frames", type=int, choices=FRAMES, default=FRAMES[0], help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate one set of weights."""
    if args.checkpoint is not None and not args.checkpoint.exists():
        raise UserError(f"{args.checkpoint} does not exist: expected a run folder or a weights file")
    check_device(args.device)
    raise UserError(
        "`worldcompass evaluate` is not connected yet; `worldcompass demo` evaluates before and after"
    )
