"""The recipe of ``worldcompass demo``, which runs in twelve minutes on 2 cores."""

from __future__ import annotations

from worldcompass.training.advantages import damped
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.optim import Optimiser, normalised_sgd
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning, at_first
from worldcompass.worlds.hands.experiment import HandsRecipe


def hands_demo() -> HandsRecipe:
    """The short recipe of the Hands world: twelve minutes on 2 cores.

    Two rewards hold each other in check: commands followed, and likeness to reachable truth. A clip is one latent,
    so that a reward is about one command alone. All pasts are the engine's, so that truth is reachable. Candidates
    are drawn as unsure as the network is, while videos show what it finds likeliest (decision 20). Gradients keep
    their proportions, as the signal of a reward lies in few directions (experiment 73).
    """
    config = Config(
        steps=40,
        sampling=Sampling(
            prompts_per_step=24,
            group_size=12,
            chunk_length=1,
            first_chunk=1,
            last_chunk=4,
            temperature=1.0,
            true_pasts=1.0,
        ),
        rewards=Weighing(scale=damped),
        learning=Learning(best=4, worst=4, noise_levels=1, draw=at_first, micro_rows=96),
        optimiser=Optimiser(
            make_optimizer=normalised_sgd,
            lr=0.25,
            lr_end=0.3,
            behaviour_decay=Decay(0.0, 0.5, 0.02),
            checkpoint_decay=0.8,
        ),
        keeping=Keeping(save_every=4),
    )
    return HandsRecipe(config, interaction_weight=1.0, likeness_weight=0.5)
