"""Post-train Nano World Model (159M, robots and a shooter): ``worldcompass train nano``, ``:lora``, ``:smoke``."""

from __future__ import annotations

from pathlib import Path

from worldcompass.recipes._smoke import critics_of_controls
from worldcompass.worlds.nano.recipe import SETTINGS, NanoRecipe
from worldcompass.worlds.nano.sources import OfficialFiles, StandIns
from worldcompass.worlds.nano.world import LORA_TARGETS
from worldcompass.worlds.open.recipe import tiny, with_lora


def nano() -> NanoRecipe:
    """Train the whole network on one GPU."""
    return NanoRecipe(config=SETTINGS, source=OfficialFiles(Path("checkpoints/nano"), Path("data/nano")))


def lora() -> NanoRecipe:
    """Train low-rank adapters, with less memory."""
    return with_lora(nano(), LORA_TARGETS)


def smoke() -> NanoRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    return tiny(nano(), critics_of_controls, source=StandIns(), steps=None)
