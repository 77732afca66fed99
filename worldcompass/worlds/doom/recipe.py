"""What every recipe of the embedded world has in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worldcompass.training.config import Config

if TYPE_CHECKING:
    from worldcompass.cost.plan import Needs
    from worldcompass.training.run import Parts


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
    drift_weight: float = 6.0
    """Weight of the colours' drift inside of the quality reward."""
    cycle_weight: float = 0.0
    """Weight of cycle closure; above 0 every training motion is followed by the one that undoes it."""
    members: int = 1
    """Runs of different seeds from the base whose weights are averaged, see ``worldcompass.training.averaging``."""
    extend: float = 1.0
    """How far from the base through that mean to go; 1 stays at the mean."""

    def run(self, out: Path, device: str, resume: bool) -> None:
        """Run it; see ``worldcompass.worlds.doom.experiment``."""
        from worldcompass.worlds.doom.experiment import run_experiment

        run_experiment(self, out, device, resume)

    def parts(self, device: str) -> Parts:
        """For ``worldcompass profile``: what is trained with."""
        from worldcompass.worlds.doom.experiment import training_parts

        return training_parts(self, device)

    def needs(self) -> Needs:
        """For ``worldcompass plan``; nothing is loaded."""
        from worldcompass.worlds.doom.needs import needs_of

        return needs_of(self.config)
