"""The autoencoder of the Doom world: 4 frames of 64x48 <-> one latent of 24x6x8.

Depth gives its frames between two pictures, and what its pictures look like from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT
from worldcompass.worlds.doom.network.interpolation import Depth, frames_between
from worldcompass.worlds.doom.network.reprojection import views
from worldcompass.worlds.small.autoencoder import Autoencoder, CodeConfig, Look

CODE = CodeConfig((FRAME_HEIGHT, FRAME_WIDTH), FRAMES_PER_LATENT)


@dataclass(frozen=True)
class DoomLook(Look):
    """A picture, how near what it shows is, and where its camera looks."""

    nearness: Tensor
    """(..., 24, 32), see ``reproject``"""
    pitch: Tensor
    """(...), of the camera, nominal units"""


class DoomAutoencoder(Autoencoder):
    """With depth and pitch of every picture."""

    def __init__(self) -> None:
        super().__init__(CODE)
        self.depth = Depth(CODE)

    def look(self, latents_BCHW: Tensor) -> DoomLook:
        """Picture, nearness and pitch of each latent."""
        picture, features = self.picture(latents_BCHW)
        return DoomLook(picture, *self.depth(latents_BCHW, features))

    def between(self, looks: Look) -> Tensor:
        """The frames (B, K - 1, 3, 3, h, w) between K looks in a row."""
        return between_looks(looks)[0]

    @torch.no_grad()
    def seen_from(self, pasts: Sequence[tuple[DoomLook, Tensor, Tensor]]) -> Tensor:
        """What cameras see of what was seen before, as latents; (B, C + 1, K, H, W).

        The last channel is the share of each cell that was seen; what was not is made of what lies beside it.

        Args:
            pasts: views to carry along, a later one where the earlier ones show nothing. Of each: the look of B
                latents, whose own reading of the pitch is not used; the motion from their cameras to K others,
                nominal units (B, K, 4); the pitch of their cameras, nominal units (B,).
        """
        shown, seen = views(pasts[0][0].picture, pasts[0][0].nearness, *pasts[0][1:])
        for look, motion, pitch in pasts[1:]:
            older, there = views(look.picture, look.nearness, motion, pitch)
            filled = (1 - seen) * there
            shown, seen = torch.lerp(shown, older, filled), seen + filled
        latents = self.encode(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        share = functional.avg_pool2d(seen.flatten(0, 1), CODE.cell).unflatten(0, seen.shape[:2])
        return torch.cat([latents, share], 2).transpose(1, 2)


def between_looks(looks: Look) -> tuple[Tensor, Tensor]:
    """The frames (B, K - 1, 3, 3, h, w) between K looks in a row, and the motions (B, K - 1, 4) read from them.

    Args:
        looks: ``DoomLook`` (B, K, ...).
    """
    assert isinstance(looks, DoomLook)
    size = len(looks.picture)
    pairs = looks.each(lambda x: torch.stack([x[:, :-1], x[:, 1:]], 2).flatten(0, 1))
    frames, motion = frames_between(pairs.picture, pairs.nearness, pairs.pitch)
    return frames.unflatten(0, (size, -1)), motion.unflatten(0, (size, -1))
