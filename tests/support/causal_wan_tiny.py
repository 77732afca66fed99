"""Tiny random worlds of minWM for tests; nothing is left at zero, so that every path matters."""

import dataclasses

import torch

from worldcompass.types import Actions, Scenario
from worldcompass.worlds.causal_wan.minwm import ACTIONS, STAGES, minwm
from worldcompass.worlds.causal_wan.network import CausalWan
from worldcompass.worlds.causal_wan.tiny import TINY, conditioning
from worldcompass.worlds.open.tiny import Blend, randomise

HEIGHT, WIDTH = 2, 4
PATHS = ("w-3, w+right-4, left-20, up-12", "d-3, s-4, up+right-24, down-8")


def random_network(**changes):
    net = CausalWan(dataclasses.replace(TINY, **changes))
    randomise(net, torch.Generator().manual_seed(0))
    return net


def tiny_world(stage="dmd", decoder=None, **changes):
    return minwm(random_network(), decoder or Blend(), (HEIGHT, WIDTH), STAGES[stage], **changes)


def scenario(seed, path=None, **more):
    """``more`` conditioning, such as the latents of a given video."""
    own = conditioning(TINY, torch.Generator().manual_seed(seed), 5 - seed)
    return Scenario(f"s{seed}", ACTIONS.along(path or PATHS[seed]), conditioning={**own, **more})


def scenarios():
    return [scenario(seed) for seed in range(2)]


def noise(rows, seed=0, count=4):
    return torch.randn(rows, 3, count, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def chunk_of(batch, chunk):
    return Actions.stack([s.actions.latents(4 * chunk, 4 * chunk + 4) for s in batch])


def far_along(world, batch, chunk, attend=True):
    """A context with ``chunk`` remembered chunks of noise, attended for the next."""
    context = world.begin(batch)
    for before in range(chunk):
        context = world.remember(context, noise(len(batch), before), chunk_of(batch, before))
    return world.attend(context, chunk_of(batch, chunk)) if attend else context
