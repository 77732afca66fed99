"""``worldcompass train doom_full``: the longer recipe of the embedded world, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.policy import Decay
from worldcompass.recipes._doom import DoomRecipe
from worldcompass.recipes.demo import demo


def doom_full() -> DoomRecipe:
    """The longer recipe of the embedded world: half an hour on 2 cores.

    The demo's, with twice as many groups, from all chunks of a longer video, a rate that falls further and slower
    averages. Noises of their own and obedience twice, which served the blurrier base (experiment 34 of
    docs/log.md), teach this one less (experiment 45).
    """
    recipe = demo()
    config = replace(
        recipe.config,
        steps=40,
        prompts_per_step=8,
        last_chunk=7,
        lr_end=0.15,
        behaviour_decay=Decay(0.0, 0.8, 0.01),
        checkpoint_decay=0.9,
        save_every=5,
    )
    return replace(recipe, config=config, scenarios_per_map=48, scenario_latents=32)
