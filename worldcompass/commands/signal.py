"""Measure before a run whether its rewards give a direction to learn, and whether its optimiser keeps it.

Takes the gradients of some steps from the weights before training. Steps differ in prompts and noise, so what their
gradients have in common is signal. Nothing is trained or saved; the recipe's weights must be present.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_settings, parts_of, positive

if TYPE_CHECKING:
    from worldcompass.statistics import Estimate
    from worldcompass.training.signal import LearningSignal

EXAMPLES = """\
  worldcompass signal hands_demo
  worldcompass signal demo --steps 12 --set config.prompts_per_step=12
  worldcompass signal my_recipe.py:recipe --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass signal``."""
    parser.add_argument("recipe", metavar="RECIPE", help="as for worldcompass train")
    add_settings(parser)
    text = "how many steps are compared, 4 or more (default: %(default)s)"
    parser.add_argument("--steps", type=positive, default=8, metavar="N", help=text)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure the signal and print what it says."""
    from worldcompass.media.progress import progress
    from worldcompass.training.signal import measure_signal

    parts = parts_of(args, "measured")
    with progress("comparing gradients", args.steps) as advance:
        found = measure_signal(parts, args.steps, advance)
    print(json.dumps(described(found), indent=1) if args.json else "\n".join(table(found)))
    return 0


def described(found: LearningSignal) -> dict[str, object]:
    """A measurement as JSON."""
    return {
        "steps": found.steps,
        "groups": found.groups,
        "found": found.found,
        "agreements": [{"what": a.what, "cosine": a.cosine.to_json()} for a in found.agreements],
        "reaches": [{"optimiser": r.optimiser, "cosine": r.cosine.to_json()} for r in found.reaches],
    }


def table(found: LearningSignal) -> list[str]:
    """A measurement as lines of text."""
    from worldcompass.statistics import LEVEL

    lines = [
        f"{found.steps} steps of {found.groups} groups from the weights before training, {LEVEL:.0%} intervals",
        "",
        f"{'gradient':<38}{'cosine of two steps':<28}{'steps for half signal':>22}",
    ]
    for row in found.agreements:
        steps = str(math.ceil(row.steps_for_half)) if row.cosine.rises else "–"
        lines.append(f"{row.what:<38}{_text(row.cosine):<28}{steps:>22}")
    lines += ["", f"{'step by the gradients of all others':<38}{'cosine with one left out':<28}{'kept':>22}"]
    for reach in found.reaches:
        kept = f"{found.kept(reach):.0%}" if found.found else "–"
        lines.append(f"{reach.optimiser:<38}{_text(reach.cosine):<28}{kept:>22}")
    return [*lines, "", *verdict(found)]


def verdict(found: LearningSignal) -> list[str]:
    """What the numbers say, in sentences."""
    if not found.found:
        return [
            "Not shown: gradients of different prompts agree no more than noise does. Training may follow noise.",
            "Try more prompts_per_step or --steps; rewards by which candidates differ; another noise level (draw).",
        ]
    own, best = found.reaches[1], max(found.reaches[1:], key=lambda reach: reach.cosine.mean)
    lines = ["There is something to learn: gradients of different prompts point the same way."]
    if own is not best and own.cosine.high < best.cosine.low:
        lines.append(
            f"{own.optimiser} keeps {found.kept(own):.0%} of it, {best.optimiser} {found.kept(best):.0%}: set"
            f" config.make_optimizer={best.optimiser}, with a rate of its own."
        )
    return lines


def _text(value: Estimate) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"
