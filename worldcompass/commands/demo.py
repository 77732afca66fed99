"""Post-train an embedded world, and compare it with before.

Evaluates the shipped world model, post-trains it for a fixed number of steps and evaluates it again. Writes a
table, videos next to the engine's, and report.html. Takes about twelve minutes on 2 idle cores.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import (
    add_automatic_resume,
    add_device,
    add_out,
    add_seed,
    check_device,
)
from worldcompass.recipes.catalogue import EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.worlds.doom.experiment import DoomRecipe
    from worldcompass.worlds.hands.experiment import HandsRecipe

EXAMPLES = """\
  worldcompass demo
  worldcompass demo --seed 1 --out runs/seed1
  worldcompass demo                       # the same command resumes, for example after Ctrl-C
  worldcompass demo --world doom --out runs/doom_demo
  worldcompass demo --dry-run             # print the plan and its duration
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass demo``."""
    text = "hands, a gripper over a table, or doom, first-person rooms (default: %(default)s)"
    parser.add_argument("--world", choices=EMBEDDED, default=HANDS, help=text)
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
    name, recipe = _recipe_of(args.world)
    config = recipe.config.changed(seed=args.seed, accept_changes=args.accept_changes, recipe=name)
    _run_demo(replace(recipe, config=config), args.out, device, args.dry_run)
    return 0


def _recipe_of(world: str) -> tuple[str, DoomRecipe | HandsRecipe]:
    """The name and the recipe of a world's demo."""
    if world == HANDS:
        from worldcompass.recipes.hands_demo import hands_demo

        return "hands_demo", hands_demo()
    from worldcompass.recipes.demo import demo

    return "demo", demo()


def _run_demo(recipe: DoomRecipe | HandsRecipe, out: Path, device: str, dry_run: bool) -> None:
    """Run or resume the demo, or print its plan."""
    if dry_run:
        config, sampling = recipe.config, recipe.config.sampling
        print(
            f"would evaluate the base on the fixed scenarios ({recipe.evaluation_latents} latents each), post-train"
            f" it for {config.steps} steps ({sampling.prompts_per_step} scenarios x {sampling.group_size}"
            f" candidates, seed {config.seed}, {device}), evaluate again and write {out}/report.html; about"
            " twelve minutes on 2 cores"
        )
        return
    recipe.run(out, device, resume=True)
