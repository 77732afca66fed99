"""Post-train WorldPlay 8B (HunyuanVideo-1.5, 480p): ``worldcompass train worldplay_8b``, ``:lora``, ``:smoke``."""

from __future__ import annotations

from pathlib import Path

from worldcompass.recipes._smoke import critics
from worldcompass.worlds.open.paper import PAPER
from worldcompass.worlds.open.recipe import tiny, with_lora
from worldcompass.worlds.worldplay.config import Config8B
from worldcompass.worlds.worldplay.recipe import WorldPlayRecipe
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns
from worldcompass.worlds.worldplay.tiny import TINY_8B
from worldcompass.worlds.worldplay.world import LORA_TARGETS_8B


def worldplay_8b() -> WorldPlayRecipe:
    """The paper's settings: trains the whole video half of the network and needs several GPUs."""
    files = OfficialFiles(Path("checkpoints/worldplay-8b"), Path("data/worldplay-8b"))
    return WorldPlayRecipe(config=PAPER, network=Config8B(), latent_size=(30, 52), source=files)


def lora() -> WorldPlayRecipe:
    """Train low-rank adapters on one GPU."""
    return with_lora(worldplay_8b(), LORA_TARGETS_8B)


def smoke() -> WorldPlayRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    return tiny(worldplay_8b(), critics, network=TINY_8B, latent_size=(6, 8), source=StandIns())
