"""The autoencoder of the second Hands network: 4 frames of 64x64 <-> one latent of 170x8x8."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT
from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.hands.parts.seer import Seer
from worldcompass.worlds.small.autoencoder import CodeConfig, Look
from worldcompass.worlds.small.interpolation import Interpolator
from worldcompass.worlds.small.linear import LinearAutoencoder

COLOUR, OUTLINE = 128, 6  # channels of a latent for colour, and for each outline
CODE = CodeConfig(
    FRAME_SIZE,
    FRAMES_PER_LATENT,
    channels=COLOUR + OUTLINE * len(PARTS),
    cell=8,
    fine=64,
    coarse=96,
    extra=(OUTLINE,) * len(PARTS),
)


@dataclass(frozen=True)
class PartsLook(Look):
    """See ``Look``."""

    outlines: Tensor
    """(..., 7, h, w), about [0, 1], of ``PARTS``."""


class PartsAutoencoder(LinearAutoencoder):
    """A linear code of colour and outlines, a network that sees outlines, and one for frames between pictures."""

    def __init__(self) -> None:
        super().__init__(CODE)
        self.interpolator = Interpolator(CODE)
        self.seer = Seer()

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """See ``Codec``; outlines are those that are seen."""
        return self.encode_planes(torch.cat([frames_B3hw, self.seer(frames_B3hw).outlines_NLhw], 1))

    def encode_planes(self, planes_Bphw: Tensor) -> Tensor:
        """See ``Codec``."""
        return self.code.encode(planes_Bphw)

    def look(self, latents_BCHW: Tensor) -> PartsLook:
        """See ``Codec``."""
        planes = self.code.decode(latents_BCHW)
        return PartsLook(planes[:, :3], planes[:, 3:])

    def between(self, looks: Look) -> Tensor:
        """See ``Codec``."""
        before, after = looks.picture[:, :-1], looks.picture[:, 1:]
        frames = self.interpolator(before.flatten(0, 1), after.flatten(0, 1))
        return frames.unflatten(0, before.shape[:2])
