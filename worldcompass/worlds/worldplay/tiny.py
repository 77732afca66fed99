"""Tiny random stand-ins for networks, decoder and conditioning.

With them the whole training loop runs on a CPU in seconds. They show nothing about quality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.worlds.worldplay.config import Config5B, Config8B

TINY_8B = Config8B(
    latent_channels=3,
    width=24,
    num_heads=2,
    num_blocks=2,
    mlp_ratio=2.0,
    rope_dims=(4, 4, 4),
    text_width=10,
    vision_width=6,
    byt5_widths=(5, 7, 9),
)
TINY_5B = Config5B(
    latent_channels=3, num_heads=2, head=12, num_blocks=2, mlp_width=40, text_width=10, sinusoid=16
)


def conditioning_8b(
    config: Config8B, generator: torch.Generator, num_tokens: int = 5, num_quoted: int = 2
) -> dict[str, Tensor]:
    """Random states in the form of ``worldcompass prepare``, without the start image's latent."""
    return {
        "text_states": torch.randn(8, config.text_width, generator=generator),
        "text_mask": (torch.arange(8) < num_tokens).long(),
        "byt5_states": torch.randn(4, config.byt5_widths[0], generator=generator),
        "byt5_mask": (torch.arange(4) < num_quoted).long(),
        "vision_states": torch.randn(3, config.vision_width, generator=generator),
    }


def conditioning_5b(config: Config5B, generator: torch.Generator) -> dict[str, Tensor]:
    """The same as ``conditioning_8b`` for the 5B model."""
    return {"text_states": torch.randn(6, config.text_width, generator=generator)}
