"""Post-train minWM (causal Wan2.1 1.3B with cameras, 480x832): ``worldcompass train minwm``, ``:lora``, ``:smoke``.

The settings are those of the method's paper for WorldPlay 8B, but for the four denoising steps of a student and the
horizon of its training, five clips.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from worldcompass.recipes._smoke import critics
from worldcompass.worlds.causal_wan.levels import FOUR_STEPS
from worldcompass.worlds.causal_wan.minwm import LORA_TARGETS
from worldcompass.worlds.causal_wan.minwm_files import OfficialFiles, StandIns
from worldcompass.worlds.causal_wan.minwm_recipe import MinWMRecipe
from worldcompass.worlds.causal_wan.tiny import TINY
from worldcompass.worlds.open.paper import PAPER
from worldcompass.worlds.open.recipe import tiny, with_lora

LAST_CLIP = 4  # counted from 0; 20 latents, on which all stages were trained


def minwm() -> MinWMRecipe:
    """The paper's settings: trains the whole network."""
    steps = len(FOUR_STEPS)
    # The stage decides the denoising steps. Every level is trained on, and the threshold of gradients is of a sum.
    config = PAPER.changed(
        denoising_steps=None, noise_levels=steps, max_grad_norm=2.0 / steps, last_chunk=LAST_CLIP
    )
    return MinWMRecipe(config=config, source=OfficialFiles(Path("checkpoints/minwm"), Path("data/minwm")))


def lora() -> MinWMRecipe:
    """Train low-rank adapters on one GPU."""
    return with_lora(minwm(), LORA_TARGETS)


def smoke() -> MinWMRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    recipe = tiny(minwm(), critics, network=TINY, latent_size=(6, 8), source=StandIns())
    return replace(recipe, config=recipe.config.changed(denoising_steps=None))  # a student's own four
