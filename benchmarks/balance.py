"""Which balance of two rewards gives most of both? Runs of one recipe at equal compute, several seeds each.

``python benchmarks/balance.py --out runs/balance --seeds 0 1 2`` trains the embedded world with interaction and
quality weighed 2:1, 1:0, 0:1, 1:1 and automatically (``soft_minimum``), with positive-only updates (2:1) and with
whole-video rollouts (2:1; fewer steps, so that no variant makes more forward passes while imagining than clip-level
rollouts do), and prints what the held-out judge says of each. The same command goes on where it was stopped;
``--only`` picks variants, ``--table`` prints what is finished and runs nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from seeds import read

from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS, pool
from worldcompass.recipes.load import load_recipe
from worldcompass.recipes.overrides import override
from worldcompass.rollout import clip_level_passes, imagine_whole_videos, whole_video_passes
from worldcompass.training.balance import soft_minimum
from worldcompass.training.objective import positive_only_loss
from worldcompass.worlds.doom.evaluation import blocks_of
from worldcompass.worlds.doom.experiment import DoomRecipe, run_experiment

SHOWN = ("judge_accuracy", "quality", "drift")


def weighed(interaction: float, quality: float) -> Callable[[DoomRecipe], DoomRecipe]:
    return lambda recipe: replace(recipe, interaction_weight=interaction, quality_weight=quality)


def automatic(recipe: DoomRecipe) -> DoomRecipe:
    return replace(weighed(1.0, 1.0)(recipe), config=replace(recipe.config, balance=soft_minimum))


def positive_only(recipe: DoomRecipe) -> DoomRecipe:
    return replace(weighed(2.0, 1.0)(recipe), config=replace(recipe.config, objective=positive_only_loss))


def whole_videos(recipe: DoomRecipe) -> DoomRecipe:
    config = recipe.config
    assert config.denoising_steps is not None
    chunks = range(config.first_chunk + 1, config.last_chunk + 2)
    clips, wholes = (
        sum(passes(n, config.group_size, config.denoising_steps, config.explore) for n in chunks)
        for passes in (clip_level_passes, whole_video_passes)
    )
    steps = max(1, config.steps * clips // wholes)
    return replace(
        weighed(2.0, 1.0)(recipe), config=replace(config, rollout=imagine_whole_videos, steps=steps)
    )


VARIANTS: dict[str, Callable[[DoomRecipe], DoomRecipe]] = {
    "2-1": weighed(2.0, 1.0),
    "1-0": weighed(1.0, 0.0),
    "0-1": weighed(0.0, 1.0),
    "1-1": weighed(1.0, 1.0),
    "automatic": automatic,
    "positive-only": positive_only,
    "whole-video": whole_videos,
}


def run_missing(recipe: DoomRecipe, out: Path, names: list[str], seeds: list[int], device: str) -> None:
    for seed in seeds:  # a whole row of variants before the next seed: an early table is a fair one
        for name in names:
            folder = out / name / f"seed{seed}"
            if (folder / "results.json").is_file():
                continue
            seeded = replace(recipe, config=replace(recipe.config, seed=seed))
            print(f"== {folder}", flush=True)
            going_on = (folder / "run.json").is_file()
            finished = next(iter(sorted(out.glob("*/seed*/results.json"))), None)
            measured_by = finished.parent if finished else None  # all variants start from one base
            run_experiment(VARIANTS[name](seeded), folder, device, going_on, measured_by)


def print_table(out: Path) -> None:
    """Mean paired differences to the base with 95% intervals over scenarios and seeds, held-out starts."""
    cells = [f"{kind} {name}" for kind in KINDS for name in SHOWN]
    print(f"| weights | seeds | {' | '.join(cells)} |\n|{'---|' * (len(cells) + 2)}")
    for name in VARIANTS:
        runs = sorted(path.parent for path in (out / name).glob("seed*/results.json"))
        if not runs:
            continue
        base, trained = (pool([read(run, which) for run in runs]) for which in ("base", "trained"))
        blocks = blocks_of(read(runs[0], "engine"), base, trained)
        gains = [blocks["difference"][kind][measure] for kind in KINDS for measure in SHOWN]
        texts = [f"{g['mean']:+.3f} [{g['ci95'][0]:+.3f}, {g['ci95'][1]:+.3f}]" for g in gains]
        print(f"| {name} | {len(runs)} | {' | '.join(texts)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="of the recipe, such as config.steps=5"
    )
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--out", type=Path, default=Path("runs/balance"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="print what is finished, run nothing")
    args = parser.parse_args()
    try:
        if not args.table:
            recipe = override(load_recipe(args.recipe)(), args.settings)
            run_missing(recipe, args.out, args.only, args.seeds, args.device)
        print_table(args.out)
    except UserError as why:
        raise SystemExit(f"error: {why}") from None


if __name__ == "__main__":
    main()
