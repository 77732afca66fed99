"""``worldcompass train doom_full``: the best result of the embedded world, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.policy import Decay
from worldcompass.recipes._doom import DoomRecipe
from worldcompass.recipes.demo import demo


def doom_full() -> DoomRecipe:
    """The best result of the embedded world: half an hour on 2 cores.

    More steps at a falling rate, on more and longer scenarios: at a constant rate colours run away after some
    35 steps (experiment 19 of docs/log.md).
    """
    recipe = demo()
    config = replace(
        recipe.config,
        steps=40,
        last_chunk=7,
        lr_end=0.3,
        behaviour_decay=Decay(0.0, 0.8, 0.01),
        checkpoint_decay=0.9,
        save_every=5,
    )
    return replace(recipe, config=config, scenarios_per_map=48, scenario_latents=32)
