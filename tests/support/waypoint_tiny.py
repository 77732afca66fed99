"""Tiny random Waypoint networks, worlds and scenarios for tests; nothing is left at zero."""

from dataclasses import replace

import torch

from worldcompass.types import Actions, Scenario
from worldcompass.worlds.open.tiny import randomise
from worldcompass.worlds.waypoint.controls import PlayKey
from worldcompass.worlds.waypoint.tiny import TINY, Colours, conditioning
from worldcompass.worlds.waypoint.transformer import WaypointTransformer
from worldcompass.worlds.waypoint.world import Waypoint

KEYS = {"w": PlayKey(0, "KeyW"), "space": PlayKey(2, "Space")}
# Smaller than that of the smoke run: a network of every kind of layer, with values mixed and few buttons.
CONFIG = replace(TINY, grid=(2, 3), num_buttons=4, value_residual=True)


def random_network(config=CONFIG, seed=0):
    net = WaypointTransformer(config)
    randomise(net, torch.Generator().manual_seed(seed))
    return net


def world_of(config=CONFIG):
    return Waypoint(random_network(config), Colours(config.latent_shape[1:], 2), KEYS)


def scenario(world, seed, latents=12, num_given=1):
    """Every control differs from frame to frame, between its bounds."""
    generator, config = torch.Generator().manual_seed(seed), world.net.config
    buttons = torch.randint(0, 2, (latents, config.num_buttons), generator=generator).float()
    wheel = torch.randint(-1, 2, (latents, 1), generator=generator).float()
    values = torch.cat([torch.randn(latents, 2, generator=generator), buttons, wheel], 1)
    actions = world.spec.actions.hold(values)
    found = conditioning(config, generator)
    if num_given != 1:
        del found["latent"]
        found["latents"] = torch.randn(num_given, *config.latent_shape, generator=generator)
    return Scenario(f"s{seed}", actions, conditioning=found)


def scenarios(world, **options):
    return [scenario(world, seed, **options) for seed in range(2)]


def noise(world, rows, seed=1):
    channels, height, width = world.spec.latent_shape
    return torch.randn(rows, channels, 1, height, width, generator=torch.Generator().manual_seed(seed))


def frame_of(batch, index):
    """The commands of one frame, (P, 1)."""
    return Actions.stack([s.actions.latents(index, index + 1) for s in batch])


def far_along(world, batch, frames):
    """The context after some frames of noise, attended for the next one."""
    context = world.begin(batch)
    for index in range(frames):
        attended = world.attend(context, frame_of(batch, index))
        given = bool(attended.given_K.all())
        clean = noise(world, len(batch), 100 + index)
        if given:
            clean = world.predict_clean(clean, torch.ones(len(batch)), frame_of(batch, index), attended)
        context = world.remember(attended, clean, frame_of(batch, index))
    return world.attend(context, frame_of(batch, frames))
