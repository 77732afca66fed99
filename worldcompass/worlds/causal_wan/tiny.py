"""Tiny random causal Wan networks, with which the whole training loop runs on a CPU in seconds."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.minwm import TEXT

TINY = Config(
    in_channels=3,
    out_channels=3,
    width=24,
    num_heads=2,
    num_blocks=2,
    mlp_width=40,
    sinusoid=16,
    states_width=10,
    text_length=6,
)


def conditioning(config: Config, generator: torch.Generator, num_states: int = 4) -> dict[str, Tensor]:
    """Random states of a prompt in the form of ``worldcompass prepare``."""
    return {TEXT: torch.randn(num_states, config.states_width, generator=generator)}
