"""Tiny random stand-ins for network, autoencoder and conditioning.

With them the whole training loop runs on a CPU in seconds. They show nothing about quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from worldcompass.worlds.waypoint.config import WaypointConfig

TINY = WaypointConfig(
    width=64,
    num_layers=3,
    mlp_ratio=2,
    num_heads=2,
    num_kv_heads=1,
    channels=3,
    grid=(3, 4),
    local_window=3,
    global_window=4,
    global_period=2,
    dilation=2,
    control_period=2,
    num_buttons=88,
    prompt_width=32,
    prompt_period=2,
    prompt_length=6,
    sigmas=(1.0, 0.85, 0.4, 0.0),
)


def conditioning(config: WaypointConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """A random start in the form of ``worldcompass prepare``; the last third of the caption is padding."""
    found = {"latent": torch.randn(config.latent_shape, generator=generator)}
    if config.prompt_width is not None:
        states = torch.randn(config.prompt_length, config.prompt_width, generator=generator)
        states[-(config.prompt_length // 3) :] = 0
        found["text_states"] = states
    return found


@dataclass(frozen=True)
class Colours:
    """A stand-in for the autoencoder that shows latents of 3 channels as colours; it decodes what it encodes."""

    latent_size: tuple[int, int]
    """Cells of a latent, (height, width)."""
    pixels_per_cell: int = 8

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.latent_size
        return height * self.pixels_per_cell, width * self.pixels_per_cell

    def encode(self, frames_N3hw: Tensor) -> Tensor:
        """Means of the cells."""
        return 6 * (adaptive_avg_pool2d(frames_N3hw.float(), self.latent_size) / 255 - 0.5)

    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """Squares of one colour each."""
        frames = interpolate(latents_NCHW / 6 + 0.5, scale_factor=self.pixels_per_cell)
        return (frames.clamp(0, 1) * 255).round().to(torch.uint8)
