"""Watch the embedded world learn to obey.

Evaluates the shipped world model, post-trains it for a fixed number of steps and evaluates it again. Writes a
table, videos next to the engine's, and report.html. Takes about ten minutes on 2 idle cores.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from worldcompass.commands._options import (
    add_automatic_resume,
    add_device,
    add_out,
    add_seed,
    announce,
    check_device,
)

EXAMPLES = """\
  worldcompass demo
  worldcompass demo --seed 1 --out runs/seed1
  worldcompass demo                       # the same command resumes, for example after Ctrl-C
  worldcompass demo --dry-run             # print the plan and its duration
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass demo``."""
    add_out(parser, "runs/demo", "where results, checkpoints and the page go")
    add_seed(parser)
    add_device(parser)
    add_automatic_resume(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    device = check_device(args.device)
    from worldcompass.runs.folder import writable

    if not args.dry_run:
        writable(args.out)
        announce(args.out)
    _run_demo(args.out, args.seed, device, args.accept_changes, args.dry_run)
    return 0


def _run_demo(out: Path, seed: int, device: str, accept_changes: bool, dry_run: bool) -> None:
    """Run or resume the demo, or print its plan."""
    from worldcompass.recipes.demo import demo

    recipe = demo()
    recipe = replace(
        recipe, config=recipe.config.changed(seed=seed, accept_changes=accept_changes, recipe="demo")
    )
    if dry_run:
        config, sampling = recipe.config, recipe.config.sampling
        print(
            f"would evaluate the base on the fixed scenarios ({recipe.evaluation_latents} latents each), post-train"
            f" it for {config.steps} steps ({sampling.prompts_per_step} scenarios x {sampling.group_size}"
            f" candidates, seed {seed}, {device}), evaluate again and write {out}/report.html; about 10 minutes on"
            " 2 cores"
        )
        return
    recipe.run(out, device, resume=True)
