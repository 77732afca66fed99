"""Post-train a world model with a recipe.

A recipe is a Python function that returns a frozen dataclass with a method ``run(out, device, resume)``.

RECIPE is a shipped recipe such as hands_demo or worldplay_8b:lora, a function of a shipped module (MODULE:FUNCTION)
or of your own file (my_recipe.py:FUNCTION). --list shows all recipes, or the settings of RECIPE; --set changes a
setting.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from worldcompass.commands._options import (
    add_automatic_resume,
    add_device,
    add_out,
    add_settings,
    check_device,
)
from worldcompass.devices.cuda import device_of_rank
from worldcompass.doctor.guard import OnDisease
from worldcompass.errors import UserError
from worldcompass.parallel.launch import end_with_launcher, is_rank, launch, number_of_ranks, refuse_launch
from worldcompass.parallel.team import joined
from worldcompass.recipes.load import make_recipe, shipped_recipes, summaries
from worldcompass.recipes.overrides import explained, override
from worldcompass.runs.folder import RunFolder, writable
from worldcompass.runs.trackers import Track
from worldcompass.training.of_recipe import has_config, running

EXAMPLES = """\
  worldcompass train doom_full
  worldcompass train doom_full --set config.seed=1 --set config.steps=200 --out runs/seed1
  worldcompass train doom_full --nproc 2                # two processes share every step
  worldcompass train doom_full --on-disease rollback --track tensorboard
  worldcompass train my_recipe.py:smoke
  worldcompass train --list               # the shipped recipes
  worldcompass train doom_full --list     # a recipe's settings
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass train``."""
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="demo, doom_full, ..., MODULE:FUNCTION or FILE.py:FUNCTION",
    )
    text = "change one setting, with or without its group (config.optimiser.lr or config.lr); may be repeated"
    add_settings(parser, text)
    text = "action when the doctor finds a disease (default: the recipe's config.on_disease)"
    parser.add_argument("--on-disease", choices=get_args(OnDisease), help=text)
    text = "write metrics to this tracker too, offline and without an account"
    parser.add_argument("--track", choices=get_args(Track), help=text)
    add_out(parser, "runs/train", "where metrics, checkpoints and the page go")
    add_device(parser)
    add_automatic_resume(parser)
    text = "processes on this machine that share every step; auto starts one per GPU (default: 1)"
    parser.add_argument("--nproc", default="1", metavar="N", help=text)
    parser.add_argument(
        "--list", action="store_true", help="list recipes, or the settings of RECIPE, and exit"
    )


def run(args: argparse.Namespace) -> int:
    """Train with a recipe, or list recipes or settings."""
    if args.recipe is None:
        if not args.list:
            known = ", ".join(shipped_recipes()) or "none shipped"
            raise UserError(f"expected a recipe: name a recipe ({known}) or FILE.py:FUNCTION")
        width = max(map(len, summaries()), default=0) + 2
        print("\n".join(f"{name:<{width}}{text}" for name, text in summaries().items()))
        print("or your own: FILE.py:FUNCTION, as in worldcompass train my_recipe.py:smoke")
        return 0
    chosen = [f"config.on_disease={args.on_disease}"] if args.on_disease else []
    chosen += [f"config.track={args.track}"] if args.track else []
    recipe = override(make_recipe(args.recipe), [*args.assignments, *chosen])
    if not hasattr(recipe, "run"):
        raise UserError(
            f"{args.recipe} has no method run: give {type(recipe).__name__} run(out, device, resume)"
        )
    if args.list:
        print("\n".join(explained(recipe)))
        return 0
    if has_config(recipe):
        accept = args.accept_changes or recipe.config.keeping.accept_changes
        recipe = replace(recipe, config=recipe.config.changed(recipe=args.recipe, accept_changes=accept))
    device = check_device(args.device)
    refuse_launch(args.nproc)
    if not is_rank() and (ranks := number_of_ranks(args.nproc, device)) > 1:
        return launch(sys.argv[1:], ranks)
    end_with_launcher()
    device = device_of_rank(device)
    with joined(device) as team:
        team.on_main(lambda: writable(args.out))
        try:
            if args.resume and team.is_main and not args.out.exists():
                print(f"{args.out} holds no run yet: this one starts at step 1", flush=True)
            with running(recipe, args.accept_changes):
                recipe.run(args.out, device, True)
        except torch.OutOfMemoryError as error:
            raise UserError(out_of_memory(recipe, args.recipe, team.size, str(error))) from error
        if team.is_main and RunFolder(args.out).metrics.is_file():
            print(_next_commands(args.out))
    return 0


def _next_commands(out: Path) -> str:
    name = shlex.quote(str(out))
    return (
        f"The run is in {out}. Did it learn: worldcompass doctor {name}; its page: worldcompass report {name}; its"
        f" weights: worldcompass export {name} --out FOLDER"
    )


def out_of_memory(recipe: Any, name: str, ranks: int, error: str) -> str:
    """The error for exhausted GPU memory: the settings to lower, from the recipe's estimate if it has one."""
    from worldcompass.cost.plan import make_plan, share_of, what_to_lower
    from worldcompass.runs.requirements import GIB

    cause = f"out of GPU memory ({error.split('. ')[1] if '. ' in error else error})"
    if not hasattr(recipe, "needs"):
        return (
            f"{cause}: lower config.micro_rows, config.group_size or config.prompts_per_step, or spread the run"
            " over more GPUs with config.shard=true"
        )
    plan = make_plan(share_of(recipe.needs(), ranks), ranks if recipe.config.parallel.shard else 1)
    return (
        f"{cause}: a step needs about {plan.peak / GIB:.2f} GiB of live tensors in its phase {plan.worst_phase};"
        f" {what_to_lower(plan, recipe.config)}. For every part: worldcompass plan {name}"
    )
