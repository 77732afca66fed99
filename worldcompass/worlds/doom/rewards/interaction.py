"""The interaction reward: whether the camera follows the commands, read from pixels by the motion critic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worldcompass.critic import Need
from worldcompass.geometry import split_label
from worldcompass.types import Group, Scores
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT

if TYPE_CHECKING:
    from worldcompass.worlds.doom.critics.motion import MotionCritic


class InteractionFollowing:
    """Mean probability of the commanded translation and of the commanded rotation, over the moving latents.

    Between 0 and 1 for every candidate. Probabilities, unlike hits, distinguish candidates that all miss. Commands
    count even if the engine could not execute them.
    """

    name = "interaction"
    needs: tuple[Need, ...] = ("cameras",)

    def __init__(self, critic: MotionCritic | None = None) -> None:
        """Use ``critic``, by default the one with the weights of the package."""
        if critic is None:
            from worldcompass.worlds.doom.critics.weights import load_critics

            critic = load_critics().motion
        self.critic = critic.eval()

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstain when no latent moves (only a start image).

        Raises:
            ValueError: when latents do not have the 4 frames that the critic was trained on.
        """
        from worldcompass.worlds.doom.critics.motion import clips_of

        if group.frames_per_latent != FRAMES_PER_LATENT:
            raise ValueError(
                f"the critic needs latents of {FRAMES_PER_LATENT} frames, this group has {group.frames_per_latent}"
            )
        frames, actions = group.transitions()
        labels_K = actions.cameras.labels_K
        size, moving = frames.shape[0], len(labels_K)
        if moving == 0:
            return Scores(torch.zeros(size), torch.zeros(size, dtype=torch.bool))
        found = self.critic.probabilities(clips_of(frames).flatten(0, 1))
        wanted = split_label(labels_K.to(found[0].device))
        parts = [
            p.unflatten(0, (size, moving))[:, range(moving), w] for p, w in zip(found, wanted, strict=True)
        ]
        each_GK = ((parts[0] + parts[1]) / 2).float().cpu()
        return Scores(each_GK.mean(1), torch.ones(size, dtype=torch.bool), each_GK)
