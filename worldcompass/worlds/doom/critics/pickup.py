"""The pick-up critic's network: was one of the items taken in this latent? Read from pixels alone.

The last frame of every latent goes through the same small convolution down to a vector that still knows where
things are; convolutions over time then see how a thing came nearer and whether it is there later. One logit for
each latent and item.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from worldcompass.worlds.doom.critics.realism import frames_to_fit
from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT
from worldcompass.worlds.doom.engine.items import ITEMS

RARE = -4.0  # log-odds that a latent takes an item, before anything is learned
BATCH = 16  # clips of one pass without gradients


class PickupReader(nn.Module):
    """Clips to logits that each item was taken, latent by latent."""

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
            pictures_BT3hw: the last frame of every latent, T = M + 1, one before the first; float32, -1 to 1.
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
    """uint8 frames as float32 of the network's size in [-1, 1]."""
    return frames_to_fit(frames_BT3hw.flatten(0, 1)).unflatten(0, frames_BT3hw.shape[:2])


def taken_at_all(probabilities_BMI: Tensor) -> Tensor:
    """Probability (B, I) that an item was taken in any of the latents, taken as independent."""
    return 1 - (1 - probabilities_BMI).prod(1)
