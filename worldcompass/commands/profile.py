"""Show where the time of one training step goes, part by part.

Each part lists its floating-point operations and the share of this machine's matrix-product rate that it reaches.
The rate is measured before and after. Nothing is saved; the recipe's weights must be present.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_settings, parts_of, positive

if TYPE_CHECKING:
    from worldcompass.cost.profile import Profile

EXAMPLES = """\
  worldcompass profile demo --set scenarios_per_map=2
  worldcompass profile worldplay_8b:smoke --json
  worldcompass profile doom_full --step 8 --set config.micro_rows=24
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass profile``."""
    parser.add_argument("recipe", metavar="RECIPE", help="as for worldcompass train")
    add_settings(parser)
    text = "number of the step, which selects the chunk (default: the middle of the curriculum)"
    parser.add_argument("--step", type=positive, default=None, metavar="N", help=text)
    text = "how many times the step is timed (default: %(default)s)"
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help=text)
    text = (
        "wall, as people wait, or cpu, what this process computes, also next to others (default: %(default)s)"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=text)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Profile one step and print where its time goes."""
    from worldcompass.cost.profile import profile

    found = profile(parts_of(args, "profiled"), args.step, args.repeats, args.clock)
    print(json.dumps(described(found), indent=1) if args.json else "\n".join(table(found)))
    return 0


def described(found: Profile) -> dict[str, object]:
    """A profile as JSON."""
    shares = {part: found.share_of_matrix_rate(part) for part in found.parts}
    return {**dataclasses.asdict(found), "share_of_matrix_rate": shares}


def table(found: Profile) -> list[str]:
    """A profile as lines of text."""
    flops = sum(cost.flops for cost in found.parts.values())
    whole = flops / found.seconds / found.matrix_flops_per_second
    lines = [
        f"step {found.step}, chunk {found.chunk}, on {found.device} with {found.threads} CPU thread(s): "
        f"{found.seconds:.2f} {found.clock} s, median of {found.steps_timed}, slowest {found.slowest:.2f} s",
        f"{found.passes:.0f} forward passes, a backward pass counting as two; "
        f"matrix products of this machine: {found.matrix_flops_per_second / 1e9:.1f} GFLOP/s",
        f"{'part':<28}{'seconds':>9}{'share':>8}{'GFLOP':>10}{'of matrix rate':>16}",
    ]
    for part, cost in found.parts.items():
        reached = f"{found.share_of_matrix_rate(part):.0%}" if cost.flops else "–"
        share = f"{cost.seconds / found.seconds:.1%}"
        lines.append(f"{part:<28}{cost.seconds:>9.3f}{share:>8}{cost.flops / 1e9:>10.2f}{reached:>16}")
    return [*lines, f"{'whole step':<28}{found.seconds:>9.3f}{'':>8}{flops / 1e9:>10.2f}{whole:>16.0%}"]
