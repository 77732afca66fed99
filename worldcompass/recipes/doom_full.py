"""``worldcompass train doom_full``: the longer recipe of the embedded world, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.recipes.demo import demo
from worldcompass.worlds.doom.experiment import DoomRecipe


def doom_full() -> DoomRecipe:
    """The longer recipe of the embedded world: half an hour on 2 cores.

    Averages four runs of the demo's training, which removes much of their noise, and goes all of the way to their
    mean. It has not been measured with the demo's present rewards.
    """
    return replace(demo(), members=4, extend=1.0)
