"""Critics for the smoke runs of large models."""

from __future__ import annotations

from worldcompass.critic import Critic
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.stability import PictureStability
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing


def critics() -> list[Critic]:
    """Critics that run on a CPU without downloaded weights, for smoke runs only.

    The critic of the Doom world reads optical flow; the other one is a formula.
    """
    return [InteractionFollowing(), PictureStability(name=QUALITY)]
