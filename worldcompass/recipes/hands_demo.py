"""The recipe of ``worldcompass demo``, which runs in twelve minutes on 2 cores."""

from __future__ import annotations

from worldcompass.training.advantages import damped
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.optim import Optimiser
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning
from worldcompass.worlds.hands.experiment import HandsRecipe


def hands_demo() -> HandsRecipe:
    """The short recipe of the Hands world: twelve minutes on 2 cores.

    Three rewards hold each other in check: commands followed, likeness to reachable truth, and networks that learn
    to tell candidates from the engine. Candidates of a group have noises of their own and no guidance. On this base
    guidance spoils obedience and looks alike, so a policy that explores with it learns to respond less.
    """
    config = Config(
        steps=32,
        sampling=Sampling(prompts_per_step=6, group_size=10, first_chunk=0, last_chunk=5, true_pasts=0.34),
        rewards=Weighing(scale=damped),
        learning=Learning(best=4, worst=4, noise_levels=2, updates_per_rollout=2, micro_rows=48),
        optimiser=Optimiser(lr=3e-4, lr_end=0.2, behaviour_decay=Decay(0.0, 0.5, 0.02), checkpoint_decay=0.8),
        keeping=Keeping(save_every=4),
    )
    return HandsRecipe(config, interaction_weight=1.0, likeness_weight=1.0, reality_weight=1.0)
