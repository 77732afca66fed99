"""Critics for the smoke runs of large models."""

from __future__ import annotations

import torch

from worldcompass.critic import Critic, Need
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.played import INVERSE_DYNAMICS
from worldcompass.rewards.stability import PictureStability
from worldcompass.types import Group, Scores
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing


def critics() -> list[Critic]:
    """Critics that run on a CPU without downloaded weights, for smoke runs only.

    The critic of the Doom world reads optical flow; the other one is a formula.
    """
    return [InteractionFollowing(), PictureStability(name=QUALITY)]


def critics_of_controls() -> list[Critic]:
    """The same for worlds that are played by controls instead of a camera."""
    return [MovesWhenCommanded(), PictureStability(name=QUALITY)]


class MovesWhenCommanded:
    """A stand-in for a critic of controls: pictures change where something is commanded, and rest elsewhere."""

    name = INVERSE_DYNAMICS
    needs: tuple[Need, ...] = ("controls",)

    def __call__(self, group: Group) -> Scores:
        """Mean change from frame to frame, counted negatively where nothing is commanded; in shares of 255."""
        frames, actions = group.transitions()
        changes_GF = frames.float().diff(dim=1).abs().mean((2, 3, 4)) / 255
        signs = torch.where(actions.commanded_K, 1.0, -1.0).repeat_interleave(group.frames_per_latent)
        values = (changes_GF * signs.to(changes_GF)).mean(1)
        return Scores(values, torch.ones_like(values, dtype=torch.bool))
