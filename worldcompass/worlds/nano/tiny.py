"""Tiny random stand-ins for network, pictures and controls.

With them the whole training loop runs on a CPU in seconds. They show nothing about quality.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.config import NanoConfig

TINY = NanoConfig(
    latent_channels=3, latent_size=4, width=16, num_blocks=2, num_heads=2, num_frames=4, action_size=4
)

TINY_CHECKPOINT = Checkpoint(TINY, num_steps=3, per_latent=2, scale=1.0, normalised=False, side=32)


@dataclass(frozen=True)
class Colours:
    """A stand-in for the picture autoencoder that shows latents of 3 channels as colours."""

    pixels_per_cell: int = 2

    def encode(self, frames_B3hw: Tensor) -> Tensor:
        """The inverse of ``decode``, but for rounding."""
        return 6 * (avg_pool2d(frames_B3hw.float(), self.pixels_per_cell) / 255 - 0.5)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """See ``Pictures``."""
        pixels = ((latents_BCHW / 6 + 0.5).clamp(0, 1) * 255).byte()
        return interpolate(pixels, scale_factor=self.pixels_per_cell)
