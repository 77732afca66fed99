"""The grid of the Hands world: ``hands_demo`` and what is left when one of its parts is missing."""

from __future__ import annotations

from dataclasses import replace

from worldcompass.ablation.grid import Grid, Row, rows_of
from worldcompass.recipes._rivals import CONTINUED, DPO, FLOW_GRPO, NO_AVERAGE
from worldcompass.recipes.hands_demo import hands_demo
from worldcompass.rollout import imagine_whole_videos
from worldcompass.training.balance import soft_minimum
from worldcompass.training.lora import Lora
from worldcompass.training.objective import (
    advantage_weighted_loss,
    imitation_loss,
    positive_only_loss,
    reward_weighted_loss,
)
from worldcompass.training.optim import adamw, muon
from worldcompass.training.selection import at_levels
from worldcompass.worlds.hands.experiment import HandsRecipe

CHUNKS = 4  # of the curriculum of ``hands_demo``


def hands_ablation() -> HandsRecipe:
    """The full method, ``hands_demo``."""
    return hands_demo()


def whole_videos() -> HandsRecipe:
    """Every candidate is a whole video; no past is shared, and none is the engine's."""
    return _changed(rollout=imagine_whole_videos, true_pasts=0.0)


def interaction_alone() -> HandsRecipe:
    """The reward for commands alone."""
    return replace(hands_demo(), likeness_weight=0.0)


def looks_alone() -> HandsRecipe:
    """The rewards for looks alone, with networks that learn to tell candidates from the engine."""
    return replace(hands_demo(), interaction_weight=0.0, reality_weight=1.0)


def interaction_twice() -> HandsRecipe:
    """Commands count twice, as in the paper's 2:1."""
    return replace(hands_demo(), interaction_weight=2.0)


def likeness_alone() -> HandsRecipe:
    """The reward for likeness to reachable truth alone."""
    return replace(hands_demo(), interaction_weight=0.0)


def reality_alone() -> HandsRecipe:
    """The networks that learn to tell candidates from the engine alone."""
    return replace(hands_demo(), interaction_weight=0.0, likeness_weight=0.0, reality_weight=1.0)


def balanced() -> HandsRecipe:
    """Weights that follow which reward lags behind."""
    return _changed(balance=soft_minimum)


def positive_only() -> HandsRecipe:
    """Good futures pull; bad ones do not push."""
    return _changed(objective=positive_only_loss)


def random_rows() -> HandsRecipe:
    """Random candidates instead of the best and worst."""
    return _changed(pick="random")


def no_average() -> HandsRecipe:
    """The behaviour is the trained network itself, without an average."""
    return _changed(behaviour_decay=NO_AVERAGE)


def overwritten_behaviour() -> HandsRecipe:
    """The objective that the released code computes."""
    return _changed(objective=advantage_weighted_loss)


def curriculum_down() -> HandsRecipe:
    """Long pasts first."""
    return _changed(order="down")


def curriculum_random() -> HandsRecipe:
    """Pasts of any length in any order."""
    return _changed(order="random")


def curriculum_adaptive() -> HandsRecipe:
    """Pasts of the length on which the rewards change fastest."""
    return _changed(order="adaptive")


def one_length() -> HandsRecipe:
    """The first clip after the start image only."""
    return _changed(last_chunk=1)


def group_of_4() -> HandsRecipe:
    """Four candidates; two of them are trained on from each end."""
    return _changed(group_size=4, best=2, worst=2)


def group_of_8() -> HandsRecipe:
    """Eight candidates, all of which are trained on."""
    return _changed(group_size=8)


def group_of_24() -> HandsRecipe:
    """Twenty-four candidates."""
    return _changed(group_size=24)


def one_denoising_step() -> HandsRecipe:
    """Candidates of one denoising step instead of two."""
    return _changed(denoising_steps=1, noise_levels=1)


def four_denoising_steps() -> HandsRecipe:
    """Candidates of four denoising steps."""
    return _changed(denoising_steps=4)


def adapters() -> HandsRecipe:
    """Low-rank adapters instead of the whole network."""
    return _changed(lora=Lora(rank=16, alpha=16.0))


def anchored_means() -> HandsRecipe:
    """An anchor on the means and the contrast of latents."""
    return _changed(mean_weight=1.0, contrast_weight=1.0)


def discriminator() -> HandsRecipe:
    """With networks that learn to tell candidates from the engine, as a third reward."""
    return replace(hands_demo(), reality_weight=1.0)


def muon_steps() -> HandsRecipe:
    """Muon, which makes all singular values of an update alike."""
    return _changed(make_optimizer=muon, lr=1e-3)


def adam_steps() -> HandsRecipe:
    """AdamW, which makes all entries of an update alike."""
    return _changed(make_optimizer=adamw, lr=3e-4)


def all_levels() -> HandsRecipe:
    """Rows at any noise level of the rollout."""
    return _changed(draw=at_levels)


def clips_of_4() -> HandsRecipe:
    """Clips of four latents, as in pretraining; as many candidates' latents."""
    return _changed(chunk_length=4, first_chunk=0, last_chunk=3, prompts_per_step=6)


def no_true_pasts() -> HandsRecipe:
    """All pasts are imagined."""
    return _changed(true_pasts=0.0)


def reward_weighted() -> HandsRecipe:
    """Reward-weighted regression."""
    return _changed(objective=reward_weighted_loss)


def best_of_n() -> HandsRecipe:
    """Fine-tuning on the best candidate of each group."""
    return _changed(objective=imitation_loss, best=1, worst=0)


def flow_grpo() -> HandsRecipe:
    """Flow-GRPO on all candidates."""
    return _changed(**FLOW_GRPO, best=6, worst=6)


def dpo() -> HandsRecipe:
    """Online DPO on the best and the worst candidate of each group."""
    return _changed(**DPO)


def continued_pretraining() -> HandsRecipe:
    """Flow matching on the engine's video of the training scenarios, without rewards."""
    return _changed(**CONTINUED, draw=at_levels)


def guided_base() -> HandsRecipe:
    """The weights before training, guided while sampling at twice the cost."""
    recipe = replace(hands_demo(), extend=0.0, evaluation_guidance=1.0)
    return replace(recipe, config=recipe.config.changed(steps=1))


def _changed(**settings: object) -> HandsRecipe:
    recipe = hands_demo()
    return replace(recipe, config=recipe.config.changed(**settings))


_VARIANTS = (
    whole_videos, interaction_alone, looks_alone, likeness_alone, reality_alone, interaction_twice, balanced,
    positive_only, random_rows, no_average, overwritten_behaviour,
    curriculum_down, curriculum_random, curriculum_adaptive, one_length,
    group_of_4, group_of_8, group_of_24, one_denoising_step, four_denoising_steps,
    adapters, anchored_means, discriminator, muon_steps, adam_steps, all_levels, clips_of_4, no_true_pasts,
    reward_weighted, best_of_n, flow_grpo, dpo, continued_pretraining, guided_base,
)  # fmt: skip
SCENARIOS = "2646cf277accb7d5e18f76983798d995381892181f06596b7ae2a51e18c9c985"
"""Of the evaluation, fixed before the first run."""
GRID = Grid(
    Row("full", "hands_ablation", "nothing"),
    rows_of("hands_ablation", _VARIANTS, untrained=(guided_base,)),
    curriculum=CHUNKS,
    scenarios=SCENARIOS,
)
