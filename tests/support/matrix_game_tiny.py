"""Tiny random worlds of Matrix-Game 2 and ForgeWM for tests; nothing is zero, so that every path matters."""

import torch

from worldcompass.types import Actions, Scenario
from worldcompass.worlds.causal_wan.matrix_game import UNIVERSAL, build, matrix_game
from worldcompass.worlds.causal_wan.tiny_game import TINY_GAME, start_image, tiny_actions, tiny_variant
from worldcompass.worlds.open.tiny import Blend, randomise

HEIGHT, WIDTH = 2, 4
PATHS = {
    "matrix-game-2-gta": ("w-3, w+right-4, left-20", "right-3, s-4, s+left-24"),
    "matrix-game-2-temple-run": ("jump-3, left-4, turn_left-20", "turn_right-3, slide-4, right-24"),
}
WALKS = ("w-3, w+right-4, a+up-20", "d-3, s-4, up+right-24")


def random_network(variant=UNIVERSAL, seed=0):
    net = build(TINY_GAME, tiny_actions(variant))
    randomise(net, torch.Generator().manual_seed(seed))
    return net


def tiny_game(variant=UNIVERSAL, decoder=None, net=None, **changes):
    own = tiny_variant(variant)
    return matrix_game(net or random_network(own), decoder or Blend(), own, (HEIGHT, WIDTH), **changes)


def scenario(seed, variant=UNIVERSAL, path=None, **more):
    """``more`` conditioning overrides the random start image."""
    image = start_image(TINY_GAME, (HEIGHT, WIDTH), torch.Generator().manual_seed(seed))
    actions = variant.devices.space.along(path or PATHS.get(variant.name, WALKS)[seed])
    return Scenario(f"s{seed}", actions, conditioning={**image, **more})


def scenarios(variant=UNIVERSAL):
    return [scenario(seed, variant) for seed in range(2)]


def noise(rows, seed=0, count=3):
    return torch.randn(rows, 3, count, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def chunk_of(batch, chunk):
    return Actions.stack([s.actions.latents(3 * chunk, 3 * chunk + 3) for s in batch])


def far_along(world, batch, chunk, attend=True):
    """A context with ``chunk`` remembered chunks of noise, attended for the next."""
    context = world.begin(batch)
    for before in range(chunk):
        context = world.remember(context, noise(len(batch), before), chunk_of(batch, before))
    return world.attend(context, chunk_of(batch, chunk)) if attend else context
