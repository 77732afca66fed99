"""``worldcompass train hands_full``: the longer recipe of the Hands world."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.recipes.hands_demo import hands_demo
from worldcompass.worlds.hands.experiment import HandsRecipe


def hands_full() -> HandsRecipe:
    """The longer recipe of the Hands world: four times the training of the short one.

    Averages four runs of the demo's training, and also rewards what instructions ask for.
    """
    return replace(hands_demo(), members=4, instruction_weight=1.0)
