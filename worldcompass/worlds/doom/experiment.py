"""A run on the embedded world: evaluate the base, post-train, evaluate again, and report.

The stages are ``worlds.small.post_training.experiment``'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldcompass.cost.plan import Needs
from worldcompass.critic import Critic
from worldcompass.evaluate import KINDS
from worldcompass.media.progress import progress
from worldcompass.rewards.cycle import CycleClosure
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.inverse_dynamics.critic import of_recipe
from worldcompass.rewards.quality import QualityWeights
from worldcompass.rewards.truth_paired import TruthPaired, TwoSided
from worldcompass.training.config import Config
from worldcompass.training.run import Parts
from worldcompass.types import Scenario
from worldcompass.worlds.doom.critics.weights import load_critics
from worldcompass.worlds.doom.engine.facts import THRESHOLDS
from worldcompass.worlds.doom.engine.maps import TRAINING
from worldcompass.worlds.doom.engine.scenarios import (
    draw_all,
    evaluation_plans,
    replay_all,
    training_scenarios,
)
from worldcompass.worlds.doom.evaluation import exam
from worldcompass.worlds.doom.needs import needs_of
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality
from worldcompass.worlds.doom.world import WEIGHTS, load_doom_world
from worldcompass.worlds.small.post_training.experiment import Ground, SmallRecipe, weights_of

PROBES_PER_MAP_AND_KIND = 1  # videos of the held-out judge's probes during training
PROBE_LATENTS = 16
WEIGHTED = (
    "interaction",
    "quality",
    "likeness",
    "steadiness",
    "reality",
    "inverse_dynamics",
    "cycle",
)  # rewards of a recipe


@dataclass(frozen=True)
class DoomRecipe(SmallRecipe):
    """See ``SmallRecipe``."""

    scenarios_per_map: int = 12
    """Fresh scenarios for post-training, per training map."""
    scenario_latents: int = 16
    """Their length, which must include the curriculum's last chunk."""
    interaction_weight: float = 2.0
    quality_weight: float = 1.0
    """Of the looks reward of formulas and learned realism; 0 to only monitor it."""
    drift_weight: float = 6.0
    """Weight of colour drift in the quality reward."""
    cycle_weight: float = 0.0
    """Weight of cycle closure; above 0, every training motion is followed by its opposite."""

    def ground(self) -> Ground[DoomRecipe]:
        """See ``ground``."""
        return ground()

    def needs(self) -> Needs:
        """The needs for ``worldcompass plan``, without loading anything."""
        return needs_of(self.config)


def ground() -> Ground[DoomRecipe]:
    """What an experiment needs of this world."""
    return Ground(
        weights=WEIGHTS,
        first_version="3",
        weighted=WEIGHTED,
        plain=DoomRecipe(Config()),
        parts=training_parts,
        scenarios=_scenarios,
        probes=_probes,
        exam=exam,
        longer="worldcompass train doom_full (half an hour)",
    )


def training_parts(recipe: DoomRecipe, device: str) -> Parts:
    """The inputs of training: the shipped world and critics, and fresh scenarios from the engine."""
    world, nets = load_doom_world(device=device), load_critics()
    quality = VisualQuality(nets.realism, QualityWeights(drift=recipe.drift_weight))
    critics: tuple[Critic, ...] = (InteractionFollowing(nets.motion), quality)
    if recipe.likeness_weight > 0:
        critics = (*critics, TruthPaired())
    if recipe.steadiness_weight > 0:
        critics = (*critics, TwoSided())
    if recipe.reality_weight > 0:
        critics = (*critics, Discriminator(seed=recipe.config.seed))
    if recipe.inverse_dynamics_weight > 0:
        critics = (*critics, of_recipe(recipe.inverse_dynamics, world.spec))
    comes_back = recipe.cycle_weight > 0
    if comes_back:
        critics = (*critics, CycleClosure(THRESHOLDS))
    own = weights_of(recipe, WEIGHTED)
    weights = {critic.name: own[critic.name] for critic in critics}
    config, count = recipe.config.changed(weights=weights), recipe.scenarios_per_map
    with progress("playing fresh scenarios for training", 4 * count) as advance:
        scenarios = training_scenarios(
            count, recipe.scenario_latents, config.seed, advance, out_and_back=comes_back
        )
    return Parts(world, critics, scenarios, config)


def _scenarios(recipe: DoomRecipe) -> list[Scenario]:
    plans = evaluation_plans(None if recipe.unseen else False)
    with progress("replaying the scenarios in the engine", len(plans)) as advance:
        return replay_all(plans, recipe.evaluation_latents, advance)


def _probes(seed: int) -> list[Scenario]:
    drawn = draw_all(TRAINING, KINDS, PROBES_PER_MAP_AND_KIND, PROBE_LATENTS, seed, "probe")
    return [scenario for _, scenario in drawn]
