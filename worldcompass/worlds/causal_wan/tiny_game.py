"""Tiny random networks with keyboard and mouse, with which the whole training loop runs on a CPU in seconds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldcompass.worlds.causal_wan.action_module import HEAD, ActionConfig
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.matrix_game import LATENTS, MASK_CHANNELS, TOKENS, Variant

TINY_GAME = Config(
    in_channels=3 + MASK_CHANNELS + 3,
    out_channels=3,
    width=24,
    num_heads=2,
    num_blocks=2,
    mlp_width=40,
    sinusoid=16,
    reads="image",
    states_width=10,
    by_camera=False,
    action_blocks=(0,),
)


def tiny_variant(variant: Variant) -> Variant:
    """The variant with modules for actions in ``TINY_GAME``'s blocks."""
    return replace(variant, action_blocks=TINY_GAME.action_blocks)


def tiny_actions(variant: Variant) -> ActionConfig:
    """Modules with one head, for the variant's keys."""
    return ActionConfig(
        variant.num_keys, variant.has_mouse, key_width=4, keyboard_width=HEAD, mouse_width=HEAD
    )


def start_image(
    config: Config, latent_size: tuple[int, int], generator: torch.Generator, num_latents: int = 4
) -> dict[str, Tensor]:
    """Random numbers in the form of ``worldcompass prepare``."""
    return {
        LATENTS: torch.randn(config.out_channels, num_latents, *latent_size, generator=generator),
        TOKENS: torch.randn(5, config.states_width, generator=generator),
    }
