"""``worldcompass train doom_full``: the longer recipe of the embedded world, half an hour on 2 cores."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.recipes.demo import demo
from worldcompass.worlds.doom.experiment import DoomRecipe


def doom_full() -> DoomRecipe:
    """The longer recipe of the embedded world: half an hour on 2 cores.

    Four runs of the demo's training, averaged and carried on. Longer runs, more groups a step, higher rates and
    noises of their own all taught this base less (experiments 45 and 47 of docs/log.md).
    """
    return replace(demo(), members=4, extend=1.8)
