"""The grid of the Doom world: ``demo`` and what is left when one of its parts is missing."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.ablation.grid import Grid, Row, rows_of
from worldcompass.recipes._rivals import CONTINUED, DPO, FLOW_GRPO, NO_AVERAGE, NO_EXPLORATION
from worldcompass.recipes.demo import demo
from worldcompass.rollout import imagine_whole_videos
from worldcompass.training.balance import soft_minimum
from worldcompass.training.lora import Lora
from worldcompass.training.objective import (
    advantage_weighted_loss,
    imitation_loss,
    positive_only_loss,
    reward_weighted_loss,
)
from worldcompass.worlds.doom.experiment import DoomRecipe

CHUNKS = 6  # of the curriculum of ``demo``


def doom_ablation() -> DoomRecipe:
    """The full method, ``demo``."""
    return demo()


def whole_videos() -> DoomRecipe:
    """Every candidate is a whole video; no past is shared, and none is the engine's."""
    return _changed(rollout=imagine_whole_videos, true_pasts=0.0)


def interaction_alone() -> DoomRecipe:
    """The reward for commands alone."""
    return replace(demo(), likeness_weight=0.0, steadiness_weight=0.0)


def looks_alone() -> DoomRecipe:
    """The rewards for looks alone."""
    return replace(demo(), interaction_weight=0.0)


def interaction_twice() -> DoomRecipe:
    """Commands count twice, as in the paper's 2:1."""
    return replace(demo(), interaction_weight=2.0)


def balanced() -> DoomRecipe:
    """Weights that follow which reward lags behind."""
    return _changed(balance=soft_minimum)


def discriminator() -> DoomRecipe:
    """Also networks that learn to tell candidates from the engine."""
    return replace(demo(), reality_weight=1.0)


def positive_only() -> DoomRecipe:
    """Good futures pull; bad ones do not push."""
    return _changed(objective=positive_only_loss)


def random_rows() -> DoomRecipe:
    """Half as many candidates, random instead of the best and worst."""
    return _changed(pick="random", best=3, worst=3)


def half_of_the_rows() -> DoomRecipe:
    """The three best and the three worst; the counterpart of random candidates."""
    return _changed(best=3, worst=3)


def no_average() -> DoomRecipe:
    """The behaviour is the trained network itself, without an average."""
    return _changed(behaviour_decay=NO_AVERAGE)


def overwritten_behaviour() -> DoomRecipe:
    """The objective that the released code computes."""
    return _changed(objective=advantage_weighted_loss)


def curriculum_down() -> DoomRecipe:
    """Long pasts first."""
    return _changed(order="down")


def curriculum_random() -> DoomRecipe:
    """Pasts of any length in any order."""
    return _changed(order="random")


def curriculum_adaptive() -> DoomRecipe:
    """Pasts of the length on which the rewards change fastest."""
    return _changed(order="adaptive")


def group_of_4() -> DoomRecipe:
    """Four candidates."""
    return _changed(group_size=4, best=2, worst=2)


def group_of_8() -> DoomRecipe:
    """Eight candidates."""
    return _changed(group_size=8, best=4, worst=4)


def group_of_24() -> DoomRecipe:
    """Twenty-four candidates, of which twelve are trained on."""
    return _changed(group_size=24)


def two_denoising_steps() -> DoomRecipe:
    """Candidates of two denoising steps instead of three."""
    return _changed(denoising_steps=2)


def eight_denoising_steps() -> DoomRecipe:
    """Candidates of eight denoising steps, as videos are imagined after training."""
    return _changed(denoising_steps=8)


def own_noises() -> DoomRecipe:
    """Candidates differ by their noise and are not guided."""
    return _changed(**NO_EXPLORATION)


def adapters() -> DoomRecipe:
    """Low-rank adapters instead of the whole network."""
    return _changed(lora=Lora(rank=16, alpha=16.0), lr=9e-3)


def no_anchor() -> DoomRecipe:
    """Without the pull of the means to the start weights."""
    return _changed(mean_weight=0.0)


def no_true_pasts() -> DoomRecipe:
    """All pasts are imagined."""
    return _changed(true_pasts=0.0)


def whole_way() -> DoomRecipe:
    """All of the way that training went, instead of half."""
    return replace(demo(), extend=1.0)


def reward_weighted() -> DoomRecipe:
    """Reward-weighted regression."""
    return _changed(objective=reward_weighted_loss)


def best_of_n() -> DoomRecipe:
    """Fine-tuning on the best candidate of each group."""
    return _changed(objective=imitation_loss, best=1, worst=0)


def flow_grpo() -> DoomRecipe:
    """Flow-GRPO on all candidates."""
    return _changed(**FLOW_GRPO)


def dpo() -> DoomRecipe:
    """Online DPO on the best and the worst candidate of each group."""
    return _changed(**DPO)


def continued_pretraining() -> DoomRecipe:
    """Flow matching on the engine's video of the training scenarios, without rewards."""
    return _changed(**CONTINUED)


def guided_base() -> DoomRecipe:
    """The weights before training, guided while sampling at twice the cost."""
    recipe = replace(demo(), extend=0.0, evaluation_guidance=1.0)
    return replace(recipe, config=recipe.config.changed(steps=1))


def _changed(**settings: object) -> DoomRecipe:
    recipe = demo()
    return replace(recipe, config=recipe.config.changed(**settings))


_VARIANTS = (
    whole_videos, interaction_alone, looks_alone, interaction_twice, balanced, discriminator,
    positive_only, half_of_the_rows, random_rows, no_average, overwritten_behaviour,
    curriculum_down, curriculum_random, curriculum_adaptive,
    group_of_4, group_of_8, group_of_24, two_denoising_steps, eight_denoising_steps, own_noises,
    adapters, no_anchor, no_true_pasts, whole_way,
    reward_weighted, best_of_n, flow_grpo, dpo, continued_pretraining, guided_base,
)  # fmt: skip
SCENARIOS = "9eda85a02fcf8e5de3fe53162fe743b650fe2923fe78d2e7781bc21c9ffb722c"
"""Of the evaluation, fixed before the first run."""
GRID = Grid(
    Row("full", "doom_ablation", "nothing"),
    rows_of("doom_ablation", _VARIANTS, untrained=(guided_base,)),
    curriculum=CHUNKS,
    scenarios=SCENARIOS,
)
