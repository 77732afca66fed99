"""A head that mixes what it is shown, for worlds in which most of a picture is there already, only elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldcompass.worlds.small.transformer import TransformerConfig

LEAST_SIGMA = 0.02  # below it a latent is as good as clean, and its velocity is not asked for


class MixHead(nn.Module):
    """The clean latent as a mean of the last one and the views, weighed in each cell, plus gated free values.

    The network's views must be whole latents. The head is born as the plain mean.
    """

    def __init__(self, features: int, config: TransformerConfig) -> None:
        super().__init__()
        self.channels = config.latent_shape[0]
        if config.seen % self.channels:
            raise ValueError(f"expected views of {self.channels} channels each, got {config.seen} channels")
        self.sources = 1 + config.seen // self.channels
        self.weigh = nn.Conv2d(features, self.sources + 1, 3, padding=1)
        self.free = nn.Conv2d(features, self.channels, 3, padding=1)
        for layer in (self.weigh, self.free):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features_NcHW: Tensor, cells_NcHW: Tensor, sigma_N: Tensor) -> Tensor:
        """Velocity (N, C, H, W); see ``VelocityHead``."""
        noisy, shown = cells_NcHW[:, : self.channels], cells_NcHW[:, self.channels :]
        logits, gate = self.weigh(features_NcHW).split((self.sources, 1), 1)
        weights = torch.softmax(logits, 1)[:, :, None]
        mixed = (weights * shown.unflatten(1, (self.sources, self.channels))).sum(1)
        clean = mixed + torch.sigmoid(gate) * self.free(features_NcHW)
        return (noisy - clean) / sigma_N.clamp_min(LEAST_SIGMA).view(-1, 1, 1, 1)
