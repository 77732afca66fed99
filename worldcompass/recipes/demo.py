"""The recipe of ``worldcompass demo --world doom``, which runs in ten minutes on 2 cores."""

from __future__ import annotations

from worldcompass.training.advantages import damped
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling
from worldcompass.training.keeping import Keeping
from worldcompass.training.optim import Optimiser
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning
from worldcompass.worlds.doom.experiment import DoomRecipe


def demo() -> DoomRecipe:
    """The short recipe of the embedded world: ten minutes on 2 cores.

    Three rewards hold each other in check: commands followed, likeness to what the decoder can show of the engine,
    and steady colours. Candidates of a group share their noise and differ in guidance at right angles to their own
    estimate, which leaves contrast alone. A third of the groups begin after the engine's own video, where likeness
    can be read at any depth. The scale ``damped`` keeps single groups from dominating. The final weights go half of
    the way that training went: that keeps most of the obedience, and late pictures stay nearer to the engine's.
    """
    config = Config(
        steps=24,
        sampling=Sampling(
            prompts_per_step=6,
            group_size=12,
            first_chunk=0,
            last_chunk=5,
            denoising_steps=3,
            explore=1.0,
            projected=1.0,
            shared_noise=True,
            true_pasts=0.34,
        ),
        rewards=Weighing(scale=damped),
        learning=Learning(
            best=6, worst=6, noise_levels=2, updates_per_rollout=2, micro_rows=72, mean_weight=3.0
        ),
        optimiser=Optimiser(lr=9e-4, lr_end=0.2, behaviour_decay=Decay(0.0, 0.5, 0.02), checkpoint_decay=0.8),
        keeping=Keeping(save_every=4),
    )
    return DoomRecipe(
        config,
        scenario_latents=24,
        interaction_weight=1.0,
        quality_weight=0.0,
        likeness_weight=1.0,
        steadiness_weight=1.0,
        extend=0.5,
    )
