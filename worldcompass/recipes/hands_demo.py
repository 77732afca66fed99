"""``worldcompass demo --world hands``: the short recipe of the Hands world, ten minutes on 2 cores."""

from __future__ import annotations

from worldcompass.recipes.demo import demo
from worldcompass.worlds.hands.experiment import HandsRecipe


def hands_demo() -> HandsRecipe:
    """The short recipe of the Hands world: ten minutes on 2 cores.

    It trains as the demo of Doom does. Rewards are the commands followed, and things that stay what they are and
    where they are; likeness to reachable truth and steady colours hold the looks.
    """
    config = demo().config
    config = config.changed(denoising_steps=None, group_size=10, best=4, worst=4, steps=20, micro_rows=60)
    return HandsRecipe(
        config,
        interaction_weight=1.0,
        permanence_weight=1.0,
        passivity_weight=0.5,
        grasp_weight=0.5,
        likeness_weight=1.0,
        steadiness_weight=0.5,
        extend=1.0,
    )
