"""The pick-up reward: whether a clip takes the item of its instruction, by the embedded detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worldcompass.rewards.abstain import abstain
from worldcompass.types import Group, Scores
from worldcompass.worlds.doom.engine.facts import FRAMES_PER_LATENT

if TYPE_CHECKING:
    from worldcompass.worlds.doom.critics.pickup import PickupReader

CONTEXT = 4  # latents before the chunk that the detector reads, to see an item approach


class PickupFollowing:
    """Probability that the item of the instruction is taken in the chunk; 0 to 1.

    Abstains unless the instruction names exactly one known item.
    """

    name = "pickup"

    def __init__(self, reader: PickupReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        if reader is None:
            from worldcompass.worlds.doom.critics.weights import load_pickup_reader

            reader = load_pickup_reader()
        self.reader = reader.eval()

    def __call__(self, group: Group) -> Scores:
        """Score the candidates.

        Raises:
            ValueError: when latents do not have the 4 frames that the detector was trained on.
        """
        from worldcompass.worlds.doom.critics.pickup import taken_at_all
        from worldcompass.worlds.doom.engine.items import items_named

        if group.frames_per_latent != FRAMES_PER_LATENT:
            raise ValueError(
                f"the critic needs latents of {FRAMES_PER_LATENT} frames, this group has {group.frames_per_latent}"
            )
        items, moving = items_named(group.instruction), len(group.transitions()[1])
        if len(items) != 1 or moving == 0:
            return abstain(group)
        frames, past = group.frames_GF3hw, group.past_frames_F3hw
        before = past[len(past) - 1 - 4 * min(CONTEXT, (len(past) - 1) // 4) :] if len(past) else past
        clips = torch.cat([before.to(frames.device).expand(len(frames), *before.shape), frames], 1)
        found = taken_at_all(self.reader.probabilities(clips)[:, -moving:])[:, items[0]]
        return Scores(found.cpu(), torch.ones(len(found), dtype=torch.bool))
