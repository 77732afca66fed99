"""``worldcompass train doom_full``: the demo at more than twice its length, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.policy import Decay
from worldcompass.recipes._doom import DoomRecipe
from worldcompass.recipes.demo import demo


def doom_full() -> DoomRecipe:
    """The demo at more than twice its length: half an hour on 2 cores.

    More steps on more and longer scenarios, with a stronger pull on colours: what they drift in one chunk adds up
    over eight (experiments 19 to 22 of docs/log.md). Pictures get sharper than the demo's; obedience does not
    follow on every seed (experiment 27).
    """
    recipe = demo()
    config = replace(
        recipe.config,
        steps=56,
        last_chunk=7,
        mean_weight=2.0,
        lr_end=0.15,
        behaviour_decay=Decay(0.0, 0.8, 0.01),
        checkpoint_decay=0.9,
        save_every=5,
    )
    return replace(recipe, config=config, scenarios_per_map=48, scenario_latents=32)
