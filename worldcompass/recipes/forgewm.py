"""Post-train ForgeWM (1.8B, keyboard and mouse): ``worldcompass train forgewm``, ``:lora``, ``:smoke``.

Stage 1 has many steps and no guidance, which suits training. The students of stage 3 have four steps: ``:students``
and ``:students_lora``.
"""

from __future__ import annotations

from pathlib import Path

from worldcompass.recipes._smoke import critics_of_controls
from worldcompass.worlds.causal_wan.game_recipe import GameRecipe, game_recipe
from worldcompass.worlds.causal_wan.game_sources import GameFiles, StandIns
from worldcompass.worlds.causal_wan.matrix_game import FORGEWM_1, FORGEWM_3, LORA_TARGETS, Variant
from worldcompass.worlds.causal_wan.tiny_game import tiny_game_recipe
from worldcompass.worlds.open.recipe import with_lora
from worldcompass.worlds.open.weights import GENERATOR_FILE

CHECKPOINTS, DATA = Path("checkpoints/forgewm"), Path("data/forgewm")


def forgewm() -> GameRecipe:
    """Stage 1, many steps by Euler: trains the whole network and needs several GPUs."""
    return _of(FORGEWM_1, f"stage1/{GENERATOR_FILE}")


def students() -> GameRecipe:
    """Stage 3, the published player with four steps."""
    return _of(FORGEWM_3, f"stage3/{GENERATOR_FILE}")


def lora() -> GameRecipe:
    """Train low-rank adapters of stage 1 on one GPU."""
    return with_lora(forgewm(), LORA_TARGETS)


def students_lora() -> GameRecipe:
    """Train low-rank adapters of stage 3 on one GPU."""
    return with_lora(students(), LORA_TARGETS)


def smoke() -> GameRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    return tiny_game_recipe(forgewm(), critics_of_controls, StandIns())


def _of(variant: Variant, released: str) -> GameRecipe:
    return game_recipe("forgewm", variant, GameFiles(CHECKPOINTS, DATA, released), GENERATOR_FILE)
