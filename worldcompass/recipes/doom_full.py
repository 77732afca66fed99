"""``worldcompass train doom_full``: the best result of the embedded world, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.policy import Decay
from worldcompass.recipes._doom import DoomRecipe
from worldcompass.recipes.demo import demo


def doom_full() -> DoomRecipe:
    """The best result of the embedded world: half an hour on 2 cores.

    The demo learns what guidance alone can teach, looks above all. Here candidates have noises of their own, so
    that choosing among them teaches where to go as well, obedience weighs twice as much as looks, and more groups
    and steps make up for what groups then disagree on (experiment 34 of docs/log.md).
    """
    recipe = demo()
    config = replace(
        recipe.config,
        steps=48,
        prompts_per_step=8,
        last_chunk=7,
        shared_noise=False,
        lr_end=0.15,
        behaviour_decay=Decay(0.0, 0.8, 0.01),
        checkpoint_decay=0.9,
        save_every=5,
    )
    return replace(recipe, config=config, scenarios_per_map=48, scenario_latents=32, interaction_weight=2.0)
