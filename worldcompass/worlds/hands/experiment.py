"""A run on the Hands world: evaluate the base, post-train, evaluate again, and report.

The stages are ``worlds.small.post_training.experiment``'s. All scenarios are in the package: nothing needs the
engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldcompass.cost.plan import Needs
from worldcompass.critic import Critic
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.inverse_dynamics.critic import of_recipe
from worldcompass.rewards.truth_paired import TruthPaired, TwoSided
from worldcompass.training.config import Config
from worldcompass.training.run import Parts
from worldcompass.worlds.hands.critics.weights import shared_reader
from worldcompass.worlds.hands.evaluation import exam, fixed_scenarios
from worldcompass.worlds.hands.footage import shipped_scenarios
from worldcompass.worlds.hands.needs import needs_of
from worldcompass.worlds.hands.rewards.instruction import InstructionFollowing
from worldcompass.worlds.hands.rewards.interaction import GripperFollowing
from worldcompass.worlds.hands.rewards.objects import Grasp, Passivity, Permanence
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, load_hands_world
from worldcompass.worlds.small.post_training.experiment import Ground, SmallRecipe, weights_of

PROBE_LATENTS = 16
ANY_DEPTH = 32  # chunks: the camera stands still, so truth shows the same place after any number of them
WEIGHTED = (
    "interaction",
    "permanence",
    "passivity",
    "grasp",
    "instruction",
    "inverse_dynamics",
    "likeness",
    "steadiness",
    "reality",
)  # rewards of a recipe


@dataclass(frozen=True)
class HandsRecipe(SmallRecipe):
    """See ``SmallRecipe``; the evaluation has 32 latents at the most."""

    scenario_latents: int = 24
    """Length of the training scenarios, which must include the curriculum's last chunk; 24 at most."""
    interaction_weight: float = 1.0
    permanence_weight: float = 0.0
    """Of things that stay what they are, see ``Permanence``; above 0 for the critic to take part, as all below."""
    passivity_weight: float = 0.0
    grasp_weight: float = 0.0
    instruction_weight: float = 0.0
    """Of doing what the instruction says; a third of the training scenarios carry one."""

    def ground(self) -> Ground[HandsRecipe]:
        """See ``ground``."""
        return ground()

    def needs(self) -> Needs:
        """The needs for ``worldcompass plan``, without loading anything."""
        return needs_of(self.config)


def ground() -> Ground[HandsRecipe]:
    """What an experiment needs of this world."""
    return Ground(
        weights=WEIGHTS,
        first_version=WEIGHTS.version,
        weighted=WEIGHTED,
        plain=HandsRecipe(Config()),
        parts=training_parts,
        scenarios=lambda recipe: fixed_scenarios(recipe.evaluation_latents, recipe.unseen),
        probes=lambda seed: shipped_scenarios("probes", PROBE_LATENTS),
        exam=exam,
        longer="worldcompass train hands_full (four such runs, averaged)",
    )


def training_parts(recipe: HandsRecipe, device: str) -> Parts:
    """The inputs of training: the shipped world and scenarios, and the critics that weigh."""
    weights = {name: weight for name, weight in weights_of(recipe, WEIGHTED).items() if weight > 0}
    config = recipe.config.changed(weights=weights)
    scenarios = shipped_scenarios("training", recipe.scenario_latents)
    critics = [_critic(name, recipe) for name in weights]
    return Parts(load_hands_world(device=device), critics, scenarios, config)


def _critic(name: str, recipe: HandsRecipe) -> Critic:
    reader = shared_reader()
    if name == "interaction":
        return GripperFollowing(reader)
    things = {
        "permanence": Permanence,
        "passivity": Passivity,
        "grasp": Grasp,
        "instruction": InstructionFollowing,
    }
    if name in things:
        return things[name](reader)
    if name == "reality":
        return Discriminator(seed=recipe.config.seed)
    if name == "inverse_dynamics":
        return of_recipe(recipe.inverse_dynamics, SPEC)
    if name == "likeness":
        return TruthPaired(most_depth=ANY_DEPTH)
    return TwoSided()
