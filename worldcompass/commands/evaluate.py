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
    text = "run folder or folder of weights (default: the shipped weights)"
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="PATH", help=text)
    add_out(parser, "runs/evaluate", "where results.json goes")
    text = "length of the rollouts (default: %(default)s)"
    parser.add_argument("--frames", type=int, choices=FRAMES, default=FRAMES[0], help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate one set of weights."""
    if args.checkpoint is not None and not args.checkpoint.exists():
        raise UserError(f"{args.checkpoint} does not exist: expected a run folder or a folder of weights")
    device = check_device(args.device)
    from worldcompass.doom.experiment import evaluate_weights

    latents = (args.frames + 3) // 4
    results = evaluate_weights(args.checkpoint, args.out, latents, args.seed, device)
    for kind in ("combined", "basic"):
        for side in ("base", "engine"):
            score = results[side][kind]["judge_accuracy"]
            low, high = (100 * x for x in score["ci95"])
            name = {"base": "model"}.get(side, side)
            print(f"{kind:9} {name:7} judge accuracy {100 * score['mean']:5.1f}% [{low:.1f}, {high:.1f}]")
    print(f"wrote {args.out / 'results.json'}")
    return 0
