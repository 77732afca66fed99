"""Score a world model on the fixed scenarios with the held-out judge, next to the base model and the engine.

Every world is measured in all its ways of walking: rollout, and play as in the browser.
With --checkpoint the weights are compared with the shipped base, scenario by scenario. Several checkpoints, the
seeds of one recipe, give one result. The same command resumes a stopped evaluation.

With --recipe, such as worldplay_8b:lora, the recipe's own critics score videos along new trajectories, of the
recipe's weights and of every --checkpoint (a run, a folder such as ar_rl_model, or a file).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.commands._options import (
    add_device,
    add_out,
    add_seed,
    add_settings,
    check_checkpoint,
    check_device,
    positive,
)
from worldcompass.commands._worlds import add_world, open_recipe, world_of
from worldcompass.errors import UserError
from worldcompass.recipes.catalogue import DOOM, EMBEDDED, HANDS

if TYPE_CHECKING:
    from worldcompass.runs.results import Evaluation

MOST_LATENTS = 32  # of the videos of --recipe, when nothing is said

EXAMPLES = """\
  worldcompass evaluate                                # the shipped weights
  worldcompass evaluate --checkpoint runs/demo --frames 253 --out runs/demo_253
  worldcompass evaluate --checkpoint runs/seed0 runs/seed1 runs/seed2 --frames 381
  worldcompass evaluate --recipe worldplay_8b:lora --checkpoint runs/lora8 checkpoints/worldplay-8b/ar_rl_model
"""

FRAMES = (125, 253, 381)
UNSEEN = {DOOM: "unseen maps", HANDS: "unseen looks and sets"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``worldcompass evaluate``."""
    text = "run folders or folders of weights (default: the shipped weights alone)"
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], metavar="PATH", help=text)
    add_world(parser, "doom, or hands, which has rollouts of 125 frames", EMBEDDED)
    add_out(parser, "runs/evaluate", "where results.json, video and filmstrips go")
    text = "length of the rollouts; shorter ones are reported too (default: %(default)s)"
    parser.add_argument("--frames", type=int, choices=FRAMES, default=FRAMES[0], help=text)
    parser.add_argument(
        "--recipe",
        default=None,
        metavar="RECIPE",
        help="evaluate the world of a recipe of an open checkpoint",
    )
    text = "with --recipe: change one of its settings; may be repeated"
    add_settings(parser, text)
    text = "with --recipe: number of scenarios (default: all, at most 16)"
    parser.add_argument("--scenarios", type=positive, default=None, metavar="N", help=text)
    text = (
        f"with --recipe: latents of every video, whole chunks (default: as many as fit into {MOST_LATENTS})"
    )
    parser.add_argument("--latents", type=positive, default=None, metavar="M", help=text)
    text = "with --recipe: denoising steps (default: the world's own; the released evaluation of the 8B takes 20)"
    parser.add_argument("--steps", type=positive, default=None, metavar="N", help=text)
    add_seed(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate the weights, print and write the results."""
    for path in args.checkpoint:
        check_checkpoint(path)
    device = check_device(args.device)
    if args.recipe is not None:
        return _of_recipe(args, device)
    world = world_of(args.world, args.checkpoint)
    if world == HANDS:
        from worldcompass.worlds.hands.evaluation import HORIZONS, compare

        if args.frames not in HORIZONS:
            raise UserError(
                f"rollouts of Hands have {', '.join(map(str, HORIZONS))} frames, got {args.frames}"
            )
    else:
        from worldcompass.worlds.doom.evaluation import compare

    results = compare(args.checkpoint, args.out, args.frames, args.seed, device)
    for frames, walked in results.horizons.items():
        for way, found in walked.by_way().items():
            how = results.walking[way].describe()
            print(f"{frames} frames, way {way} ({how}), actions followed (held-out judge)")
            for title, part in (("held-out starts", found), (UNSEEN[world], found.unseen)):
                for line in _lines(part) if part else ():
                    print(f"  {title:15} {line}")
    print(f"wrote {args.out / 'results.json'}")
    return 0


def _of_recipe(args: argparse.Namespace, device: str) -> int:
    """Evaluate a recipe's world with its own critics, print and write the results."""
    from worldcompass.media.progress import progress
    from worldcompass.runs.atomic import write_json
    from worldcompass.runs.folder import writable
    from worldcompass.worlds.open.evaluation import Request, compare, evaluate, scenarios_of, sides_of

    recipe = open_recipe(args.recipe, args.assignments)
    recipe.check()
    writable(args.out)
    sides = sides_of(args.checkpoint)
    latents = args.latents or MOST_LATENTS // recipe.chunk * recipe.chunk
    request = Request(args.scenarios, latents, args.steps, args.seed)
    names = [scenario.id for scenario in scenarios_of(recipe, request)]
    request = replace(request, count=len(names))
    with progress("evaluating", len(sides) * len(names)) as advance:
        for _ in evaluate(recipe, sides, request, args.out, device):
            advance()
    found = compare(list(sides), names, args.out)
    for critic, row in found.items():
        print(f"{critic} [95%], {len(names)} scenarios")
        for name, value in row.items():
            print(f"  {name:30} {value}")
    results = {
        critic: {name: value.to_json() for name, value in row.items()} for critic, row in found.items()
    }
    write_json(args.out / "results.json", results, indent=1)
    print(f"wrote {args.out / 'results.json'} and the videos; the critics are those of the training")
    return 0


def _lines(found: Evaluation) -> list[str]:
    """One line for each kind of actions: every side in percent, then the closed share of the gap."""
    from worldcompass.evaluate import FOLLOWED, KINDS, gap_text

    lines = []
    for kind in KINDS:
        scores = {
            side: found.score(side, kind, FOLLOWED) for side in ("base", "trained", "engine", "difference")
        }
        cells = [f"{side} {score.in_percent()}" for side, score in scores.items() if score.known]
        cells += [f"gap closed: {gap_text(found, kind)}"] if kind in found.gap_closed else []
        lines.append(f"{kind:8}  {'  '.join(cells)}")
    return lines
