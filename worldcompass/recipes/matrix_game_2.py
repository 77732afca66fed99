"""Post-train Matrix-Game 2 (1.6B, keyboard and mouse): ``worldcompass train matrix_game_2``, ``:lora``, ``:smoke``.

The settings are those of the method's paper as far as they fit. Other checkpoints: ``:gta``, ``:temple_run`` and
``:base``, and each with ``_lora``.
"""

from __future__ import annotations

from pathlib import Path

from worldcompass.recipes._smoke import critics_of_controls
from worldcompass.worlds.causal_wan.game_recipe import GameRecipe, game_recipe
from worldcompass.worlds.causal_wan.game_sources import GameFiles, StandIns
from worldcompass.worlds.causal_wan.matrix_game import BASE, GTA, LORA_TARGETS, TEMPLE_RUN, UNIVERSAL, Variant
from worldcompass.worlds.causal_wan.tiny_game import tiny_game_recipe
from worldcompass.worlds.open.recipe import with_lora

CHECKPOINTS, DATA = Path("checkpoints/matrix-game-2"), Path("data/matrix-game-2")


def matrix_game_2() -> GameRecipe:
    """The universal checkpoint: W, S, A, D and a mouse; distilled to three steps."""
    return _of(UNIVERSAL, "base_distilled_model/base_distill.safetensors")


def gta() -> GameRecipe:
    """The checkpoint for driving: W, S, and a mouse that steers; distilled to three steps."""
    return _of(GTA, "gta_distilled_model/gta_keyboard2dim.safetensors")


def temple_run() -> GameRecipe:
    """The checkpoint for Temple Run: one of six commands at a time, no mouse; distilled to four steps."""
    return _of(TEMPLE_RUN, "templerun_distilled_model/templerun_7dim_onlykey.safetensors")


def base() -> GameRecipe:
    """The checkpoint before distillation, with many steps. It was made to denoise a whole video at once."""
    return _of(BASE, "base_model/diffusion_pytorch_model.safetensors")


def lora() -> GameRecipe:
    """Train low-rank adapters of the universal checkpoint on one GPU."""
    return with_lora(matrix_game_2(), LORA_TARGETS)


def gta_lora() -> GameRecipe:
    """Train low-rank adapters of the checkpoint for driving on one GPU."""
    return with_lora(gta(), LORA_TARGETS)


def temple_run_lora() -> GameRecipe:
    """Train low-rank adapters of the checkpoint for Temple Run on one GPU."""
    return with_lora(temple_run(), LORA_TARGETS)


def base_lora() -> GameRecipe:
    """Train low-rank adapters of the checkpoint before distillation on one GPU."""
    return with_lora(base(), LORA_TARGETS)


def smoke() -> GameRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    return tiny_game_recipe(matrix_game_2(), critics_of_controls, StandIns())


def _of(variant: Variant, released: str) -> GameRecipe:
    return game_recipe("matrix-game-2", variant, GameFiles(CHECKPOINTS, DATA, released))
