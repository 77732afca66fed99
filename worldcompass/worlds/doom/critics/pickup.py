"""The network of the pick-up critic, which detects from pixels in which latent an item is taken.

A small convolutional network maps the last frame of every latent to a vector that still encodes positions.
Convolutions over time then see an item approach and disappear. There is one logit for each latent and item.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from worldcompass.worlds.doom.critics.realism import frames_to_fit
from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT
from worldcompass.worlds.doom.engine.items import ITEMS

RARE = -4.0  # initial log-odds that a latent takes an item
BATCH = 16  # clips of one pass without gradients


class PickupReader(nn.Module):
    """A network from clips to logits that each item is taken in each latent."""

    def __init__(self, width: int = 16, hidden: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2), nn.BatchNorm2d(width), nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.GELU(),
            nn.Conv2d(2 * width, width, 1), nn.BatchNorm2d(width), nn.GELU(),
        )  # fmt: skip
        self.flat = nn.Linear(width * (FRAME_HEIGHT // 8) * (FRAME_WIDTH // 8), hidden)
        self.near = nn.Conv1d(hidden, hidden, 5)
        self.far = nn.Conv1d(hidden, hidden, 5, dilation=3)
        self.heads = nn.Linear(hidden, len(ITEMS))
        nn.init.constant_(self.heads.bias, RARE)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pictures_BT3hw: Tensor) -> Tensor:
        """Logits (B, M, I) of M latents and I items.

        Args:
            pictures_BT3hw: the last frame of every latent and the one before the first, T = M + 1; float32, -1 to
            1.
        """
        features = self.frame(pictures_BT3hw.flatten(0, 1)).flatten(1)
        series = gelu(self.flat(self.dropout(features))).unflatten(0, pictures_BT3hw.shape[:2]).mT
        series = gelu(self.near(pad(series, (2, 2), mode="replicate")))
        series = series + gelu(self.far(pad(series, (6, 6), mode="replicate")))
        return self.heads(self.dropout(series[..., 1:].mT))

    @torch.no_grad()
    def probabilities(self, frames_BF3hw: Tensor) -> Tensor:
        """Probabilities (B, M, I) of B uint8 clips of any size; F = 4 M + 1."""
        device = self.heads.weight.device
        read = frames_BF3hw[:, ::FRAMES_PER_LATENT]
        parts = [self(prepared(part.to(device))).sigmoid().float() for part in read.split(BATCH)]
        return torch.cat(parts)


def prepared(frames_BT3hw: Tensor) -> Tensor:
    """uint8 frames as float32 in [-1, 1], resized for the network."""
    return frames_to_fit(frames_BT3hw.flatten(0, 1)).unflatten(0, frames_BT3hw.shape[:2])


def taken_at_all(probabilities_BMI: Tensor) -> Tensor:
    """Probability (B, I) that an item is taken in any latent, assuming independent latents."""
    return 1 - (1 - probabilities_BMI).prod(1)
