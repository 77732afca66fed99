"""What the smoke runs of large models are scored by."""

from __future__ import annotations

from worldcompass.critic import Critic
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.stability import PictureStability
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing


def critics() -> list[Critic]:
    """Critics that run on a CPU without weights from elsewhere, for the smoke runs alone.

    The Doom world's critic reads optical flow; the other one is a formula.
    """
    return [InteractionFollowing(), PictureStability(name=QUALITY)]
