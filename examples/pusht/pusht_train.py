"""Post-train the world model of PushT, with rewards that hold each other in check.

    worldcompass train pusht_train.py:push --out runs/pusht_rl
    worldcompass train pusht_train.py:push --set critic=critics/inverse_dynamics.safetensors --out runs/pusht_rl

``likeness`` compares with the environment's own continuation, and ``reality`` comes from networks that learn with
the model to tell its pictures from the environment's. With a ``critic`` the agent is also to move as commanded. The
state reader takes no part: it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pusht_measure import scenarios_of
from pusht_world import BLUEPRINT, make
from worldcompass.critic import Critic
from worldcompass.rewards.discriminator import Discriminator
from worldcompass.rewards.truth_paired import TruthPaired
from worldcompass.runs.final import exporting
from worldcompass.runs.folder import RunFolder
from worldcompass.training.advantages import damped
from worldcompass.training.balance import Weighing
from worldcompass.training.config import Config
from worldcompass.training.curriculum import Sampling, chunks_needed
from worldcompass.training.keeping import Keeping
from worldcompass.training.loop import train
from worldcompass.training.optim import Optimiser
from worldcompass.training.policy import Decay
from worldcompass.training.selection import Learning

MOST_DEPTH = 4  # imagined pictures, after which agent and T may be elsewhere for good reason


@dataclass(frozen=True)
class PushRecipe:
    """Post-training on recorded episodes."""

    config: Config = field(default_factory=Config)
    data: str = "data/pusht"
    """The recordings."""
    base: str = ""
    """A folder of weights to start from; those beside this file when empty."""
    critic: str = ""
    """A file of ``worldcompass critics train``, for the reward ``inverse_dynamics``; none when empty."""
    episodes: int = 96
    """Recorded episodes whose starts and controls are imagined."""
    first: int = 4
    """Latent of an episode that a scenario starts at: before, the agent is often far from the T."""

    def run(self, out: Path, device: str, resume: bool) -> None:
        """Train, and write the final weights."""
        world = make(Path(self.base) if self.base else None, device)
        latents = chunks_needed(self.config.sampling)
        scenarios = scenarios_of(Path(self.data), "train", self.episodes, latents, self.first)
        policy = train(world, self.critics(), scenarios, self.config, out, resume=resume)
        files = BLUEPRINT.weights
        with policy.checkpoint(), exporting(RunFolder(out)) as weights:
            files.export(world.autoencoder, weights / files.autoencoder)
            files.export(world.net, weights / files.net)

    def critics(self) -> list[Critic]:
        """The rewards."""
        found: list[Critic] = [TruthPaired(most_depth=MOST_DEPTH), Discriminator(seed=self.config.seed)]
        if self.critic:
            from worldcompass.rewards.inverse_dynamics.critic import InverseDynamics

            found.append(InverseDynamics.load(self.critic, make().spec))
        return found


def push() -> PushRecipe:
    """The recipe of the tutorial."""
    config = Config(
        steps=40,
        sampling=Sampling(
            prompts_per_step=8,
            group_size=8,
            first_chunk=1,
            last_chunk=16,
            clip_chunks=4,  # critics see what follows from a picture, for most of a second
            true_pasts=0.75,
        ),
        rewards=Weighing(scale=damped),
        learning=Learning(best=3, worst=3, noise_levels=2, updates_per_rollout=2, micro_rows=96),
        optimiser=Optimiser(lr=3e-4, lr_end=0.2, behaviour_decay=Decay(0.0, 0.5, 0.02), checkpoint_decay=0.8),
        keeping=Keeping(save_every=4),
    )
    return PushRecipe(config)


def short() -> PushRecipe:
    """Two steps of little, to see that everything fits together."""
    config = push().config.changed(
        steps=2,
        prompts_per_step=2,
        group_size=4,
        last_chunk=2,
        clip_chunks=2,
        best=1,
        worst=1,
        updates_per_rollout=1,
    )
    return PushRecipe(config, episodes=4)
