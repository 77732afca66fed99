"""``worldcompass demo``: the embedded world learns to obey, in minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from worldcompass.recipes.demo import demo


def run_demo(out: Path, seed: int, device: str, accept_changes: bool, dry_run: bool) -> None:
    """Run the demo, or go on with it, or say what it would do."""
    recipe = demo()
    recipe = replace(
        recipe, config=replace(recipe.config, seed=seed, accept_changes=accept_changes, recipe="demo")
    )
    if dry_run:
        config = recipe.config
        print(
            f"would evaluate the base on the fixed scenarios ({recipe.evaluation_latents} latents each), post-train"
            f" it for {config.steps} steps ({config.prompts_per_step} scenarios x {config.group_size} candidates,"
            f" seed {seed}, {device}), evaluate again and write {out}/report.html; about 10 minutes on 2 cores"
        )
        return
    recipe.run(out, device, resume=True)
