"""Score a world model on the fixed scenarios with the held-out judge, next to the base model and the engine.

Every world is measured in all its ways of walking: rollout, and play as in the browser.
With --checkpoint the weights are compared with the shipped base, scenario by scenario. Several checkpoints, the
seeds of one recipe, give one result. The same command resumes a stopped evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import add_device, add_out, add_seed, check_device
from worldcompass.errors import UserError

if TYPE_CHECKING:
    from worldcompass.runs.results import Evaluation

EXAMPLES = """\
  worldcompass evaluate                                # the shipped weights
  worldcompass evaluate --checkpoint runs/demo --frames 253 --out runs/demo_253
  worldcompass evaluate --checkpoint runs/seed0 runs/seed1 runs/seed2 --frames 381
"""

FRAMES = (125, 253, 381)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass evaluate``."""
    text = "run folders or folders of weights (default: the shipped weights alone)"
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], metavar="PATH", help=text)
    add_out(parser, "runs/evaluate", "where results.json, video and filmstrips go")
    text = "length of the rollouts; shorter ones are reported too (default: %(default)s)"
    parser.add_argument("--frames", type=int, choices=FRAMES, default=FRAMES[0], help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate the weights, print and write the results."""
    for path in args.checkpoint:
        if not path.exists():
            raise UserError(f"{path} does not exist: expected a run folder or a folder of weights")
    device = check_device(args.device)
    from worldcompass.worlds.doom.evaluation import compare

    results = compare(args.checkpoint, args.out, args.frames, args.seed, device)
    for frames, walked in results.horizons.items():
        for way, found in walked.by_way().items():
            how = results.walking[way].describe()
            print(f"{frames} frames, way {way} ({how}), actions followed (held-out judge)")
            for title, part in (("held-out starts", found), ("unseen maps", found.unseen)):
                for line in _lines(part) if part else ():
                    print(f"  {title:15} {line}")
    print(f"wrote {args.out / 'results.json'}")
    return 0


def _lines(found: Evaluation) -> list[str]:
    """One line for each kind of actions: every side in percent, then the closed share of the gap."""
    from worldcompass.evaluate import FOLLOWED, gap_text

    lines = []
    for kind in ("combined", "basic"):
        scores = {
            side: found.score(side, kind, FOLLOWED) for side in ("base", "trained", "engine", "difference")
        }
        cells = [f"{side} {score.in_percent()}" for side, score in scores.items() if score.known]
        cells += [f"gap closed: {gap_text(found, kind)}"] if kind in found.gap_closed else []
        lines.append(f"{kind:8}  {'  '.join(cells)}")
    return lines
