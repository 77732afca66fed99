"""Imagine long videos, and say at which frame a world breaks down.

A measure breaks down in the first window in which its mean lies below half-way between two levels: the engine's,
and chance, which is the engine's video of another scenario. With --checkpoint post-trained weights are compared
with the shipped base. The engine must run here. The same command resumes a stopped one.
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from worldcompass.commands._options import (
    add_checkpoint,
    add_device,
    add_out,
    add_seed,
    check_checkpoint,
    check_device,
    positive,
)
from worldcompass.commands._worlds import add_world, world_of
from worldcompass.recipes.catalogue import EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.judging.horizon import Horizon

EXAMPLES = """\
  worldcompass horizon --world hands                        # the shipped weights
  worldcompass horizon --checkpoint runs/demo --scenarios 16 --out runs/horizon_demo
  worldcompass horizon --world doom --frames 6000 --scenarios 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass horizon``."""
    add_checkpoint(parser)
    add_world(parser, "doom or hands", EMBEDDED)
    add_out(parser, "runs/horizon", "where horizon.json and the filmstrips go")
    text = "frames to imagine after the start image (default: %(default)s)"
    parser.add_argument("--frames", type=positive, default=1500, metavar="N", help=text)
    text = "frames between two values of a measure (default: %(default)s)"
    parser.add_argument("--window", type=positive, default=100, metavar="N", help=text)
    text = "scenarios, a multiple of 4 (default: %(default)s)"
    parser.add_argument("--scenarios", type=positive, default=8, metavar="N", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Imagine, measure, print and write."""
    check_checkpoint(args.checkpoint)
    device = check_device(args.device)
    world = world_of(args.world, [args.checkpoint])
    if world == HANDS:
        from worldcompass.worlds.hands.horizon import long_world
    else:
        from worldcompass.worlds.doom.horizon import long_world
    from worldcompass.worlds.small.post_training.horizon import Asked, look_far

    asked = Asked(args.frames, args.window, args.scenarios, args.seed)
    found = look_far(long_world(), args.checkpoint, args.out, asked, device, command_of(args, world))
    for line in lines_of(found):
        print(line)
    print(f"wrote {args.out / 'horizon.json'} and the filmstrips")
    return 0


def command_of(args: argparse.Namespace, world: str) -> str:
    """The command that measures the same, without output folder and device."""
    words = ["worldcompass", "horizon", "--world", world]
    words += ["--checkpoint", str(args.checkpoint)] if args.checkpoint else []
    for name in ("frames", "window", "scenarios", "seed"):
        words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


def lines_of(found: Horizon) -> list[str]:
    """The table, and one sentence for each model."""
    from worldcompass.report.horizon import WORDS, table_of

    lines = [table_of(found), ""]
    for side in found.models:
        first = found.broke_down(side)
        which = [WORDS[m] for m in found.ruled if found.breakdown(side, m).frame == first]
        lines.append(
            f"{side}: holds for {found.frames} frames"
            if first is None
            else f"{side}: broke down at frame {first} ({', '.join(which)})"
        )
    return lines
