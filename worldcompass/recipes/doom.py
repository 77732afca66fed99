"""Recipes of the embedded world: ``demo`` (minutes on a laptop) and ``doom_full`` (an hour or two)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldcompass.policy import Decay
from worldcompass.train import Config


@dataclass(frozen=True)
class DoomRecipe:
    """Evaluate the base, post-train it, evaluate again."""

    config: Config
    scenarios_per_map: int = 12
    """Fresh scenarios of each training map to post-train on."""
    scenario_latents: int = 16
    """Their length; the curriculum's last chunk must fit."""
    evaluation_latents: int = 32
    """Length of the evaluation: 32 latents are 125 frames, 64 are 253, 96 are 381."""
    evaluation_seeds: tuple[int, ...] = (0,)
    """Noise seeds of the evaluation; the base and the trained model get the same."""
    unseen: bool = True
    """Whether maps never trained on are evaluated too."""
    interaction_weight: float = 2.0
    quality_weight: float = 1.0

    def run(self, out: Path, device: str, resume: bool) -> None:
        """Run it; see ``worldcompass.doom.experiment``."""
        from worldcompass.doom.experiment import run_experiment

        run_experiment(self, out, device, resume)


def demo() -> DoomRecipe:
    """Ten minutes on 2 cores."""
    config = Config(
        steps=24,
        prompts_per_step=6,
        group_size=12,
        best=3,
        worst=3,
        first_chunk=0,
        last_chunk=3,
        denoising_steps=6,
        noise_levels=3,
        updates_per_rollout=3,
        micro_rows=36,
        lr=3e-4,
        behaviour_decay=Decay(0.0, 0.5, 0.02),
        checkpoint_decay=0.8,
        save_every=4,
    )
    return DoomRecipe(config)


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
