"""``worldcompass train doom_full``: the best result of the embedded world, an hour or two on 2 cores."""

from __future__ import annotations

from worldcompass.policy import Decay
from worldcompass.recipes._doom import DoomRecipe
from worldcompass.train import Config


def doom_full() -> DoomRecipe:
    """The best result of the embedded world: an hour or two on 2 cores."""
    config = Config(
        steps=240,
        prompts_per_step=6,
        group_size=12,
        best=3,
        worst=3,
        first_chunk=0,
        last_chunk=7,
        denoising_steps=6,
        noise_levels=3,
        updates_per_rollout=3,
        micro_rows=36,
        lr=3e-4,
        behaviour_decay=Decay(0.0, 0.8, 0.01),
        checkpoint_decay=0.9,
        save_every=5,
    )
    return DoomRecipe(config, scenarios_per_map=48, scenario_latents=32)
