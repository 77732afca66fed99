"""Post-train Waypoint-1 and 1.1 (keyboard and mouse): ``worldcompass train waypoint``, ``:lora``, ``:smoke``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from worldcompass.recipes._smoke import critics_of_controls
from worldcompass.worlds.open.recipe import tiny, with_lora
from worldcompass.worlds.waypoint.recipe import SETTINGS, WaypointRecipe
from worldcompass.worlds.waypoint.sources import OfficialFiles, StandIns
from worldcompass.worlds.waypoint.world import LORA_TARGETS


def waypoint() -> WaypointRecipe:
    """The method's settings: trains the whole network and needs several GPUs."""
    files = OfficialFiles(Path("checkpoints/waypoint"), Path("data/waypoint"))
    return WaypointRecipe(config=SETTINGS, source=files)


def lora() -> WaypointRecipe:
    """Train low-rank adapters on one GPU."""
    return with_lora(waypoint(), LORA_TARGETS)


def smoke() -> WaypointRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    whole = waypoint()
    early = replace(whole, config=whole.config.changed(first_chunk=1))  # frame 0 is given
    recipe = tiny(early, critics_of_controls, source=StandIns())
    return replace(recipe, config=recipe.config.changed(last_chunk=3, clip_chunks=2))
