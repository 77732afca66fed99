"""Post-train WorldPlay 5B (Wan2.2, 704x1280): ``worldcompass train worldplay_5b``, ``:lora``, ``:smoke``.

WorldCompass reports results for this model without a training configuration, so the settings are those of the 8B,
except for the denoising steps: the released weights are distilled to 4.
"""

from __future__ import annotations

from pathlib import Path

from worldcompass.recipes._smoke import critics
from worldcompass.worlds.open.paper import PAPER
from worldcompass.worlds.open.recipe import tiny, with_lora
from worldcompass.worlds.worldplay.config import Config5B
from worldcompass.worlds.worldplay.decoder import load_decoder_5b
from worldcompass.worlds.worldplay.recipe import WorldPlayRecipe
from worldcompass.worlds.worldplay.sources import RELEASED_5B, OfficialFiles, StandIns
from worldcompass.worlds.worldplay.tiny import TINY_5B
from worldcompass.worlds.worldplay.world import FAMILY_5B, LORA_TARGETS_5B


def worldplay_5b() -> WorldPlayRecipe:
    """The paper's settings: trains the whole video half of the network and needs several GPUs."""
    files = OfficialFiles(
        Path("checkpoints/worldplay-5b"),
        Path("data/worldplay-5b"),
        load_decoder=load_decoder_5b,
        released=RELEASED_5B,
    )
    steps = FAMILY_5B.num_steps
    # Every level is trained on, and the threshold of gradients is again of a sum over them.
    config = PAPER.changed(denoising_steps=steps, noise_levels=steps, max_grad_norm=2.0 / steps)
    return WorldPlayRecipe(config=config, network=Config5B(), latent_size=(44, 80), source=files)


def lora() -> WorldPlayRecipe:
    """Train low-rank adapters on one GPU."""
    return with_lora(worldplay_5b(), LORA_TARGETS_5B)


def smoke() -> WorldPlayRecipe:
    """Two steps with tiny random weights on a CPU, to run every part of the loop."""
    return tiny(worldplay_5b(), critics, network=TINY_5B, latent_size=(6, 8), source=StandIns())
