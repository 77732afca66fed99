"""The autoencoder of the Hands world: 4 frames of 64x64 <-> one latent of 128x8x8."""

from __future__ import annotations

from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE, FRAMES_PER_LATENT
from worldcompass.worlds.small.autoencoder import CodeConfig, Look
from worldcompass.worlds.small.interpolation import Interpolator
from worldcompass.worlds.small.linear import LinearAutoencoder

CODE = CodeConfig(FRAME_SIZE, FRAMES_PER_LATENT, channels=128, cell=8, fine=64, coarse=96)


class HandsAutoencoder(LinearAutoencoder):
    """A linear code, and a network for the frames between two pictures."""

    def __init__(self) -> None:
        super().__init__(CODE)
        self.interpolator = Interpolator(CODE)

    def between(self, looks: Look) -> Tensor:
        """See ``Codec``."""
        before, after = looks.picture[:, :-1], looks.picture[:, 1:]
        frames = self.interpolator(before.flatten(0, 1), after.flatten(0, 1))
        return frames.unflatten(0, before.shape[:2])
