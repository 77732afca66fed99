"""Tiny random networks with keyboard and mouse, with which the whole training loop runs on a CPU in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worldcompass.noise import ExplicitLevels
from worldcompass.worlds.causal_wan.action_module import HEAD, ActionConfig
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.matrix_game import LATENTS, MASK_CHANNELS, TOKENS, Variant
from worldcompass.worlds.open.recipe import tiny

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


def tiny_game_recipe(recipe: Any, critics: Callable[[], list[Any]], source: Any) -> Any:
    """The recipe with a tiny random network, see ``worlds.open.recipe.tiny``."""
    own = tiny_variant(recipe.variant)
    found = tiny(
        recipe,
        critics,
        variant=own,
        network=TINY_GAME,
        actions=tiny_actions(own),
        latent_size=(6, 8),
        source=source,
    )
    steps = own.schedule.num_steps if isinstance(own.schedule, ExplicitLevels) else 3
    return replace(found, config=found.config.changed(denoising_steps=steps))
