"""Tiny Nano World Models for tests."""

import dataclasses

import torch

from worldcompass.types import Scenario
from worldcompass.worlds.nano.actions import Statistics, actions_of
from worldcompass.worlds.nano.noising import Noising
from worldcompass.worlds.nano.tiny import TINY, Colours
from worldcompass.worlds.nano.transformer import NanoTransformer
from worldcompass.worlds.nano.world import NanoWorld, Sampling
from worldcompass.worlds.open.tiny import randomise

INJECTIONS = ("additive", "adaln", "adaln_fuse", "film", "cross_attention")
STATISTICS = Statistics((0.3, -0.2), (0.5, 0.7), (-3.0, -4.0), (4.0, 3.0))
EPSILON = {"betas": "linear", "zero_terminal_snr": False}


def network(injection="additive", seed=0, **changes):
    net = NanoTransformer(dataclasses.replace(TINY, injection=injection, **changes))
    randomise(net, torch.Generator().manual_seed(seed))
    return net


def noising_of(prediction="v", **changes):
    return Noising(prediction, **{**(EPSILON if prediction == "epsilon" else {}), **changes})


def world_of(injection="additive", prediction="v", given=1, history=None, steps=5, regime="full", **changes):
    return NanoWorld(
        network(injection, **changes),
        Colours(),
        noising_of(prediction),
        actions_of(2, 2, statistics=STATISTICS),
        Sampling(steps, regime, history, given),
        fps=2.0,
    )


def scenario(world, path, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = world.spec.latent_shape
    given = torch.randn(channels, world.sampling.given, height, width, generator=generator)
    return Scenario(f"s{seed}", world.spec.actions.along(path), conditioning={"latents": given})


def scenarios(world):
    paths = ("right+up-3, left-2, down-5", "down-4, none-1, right-5")
    return [scenario(world, path, seed) for seed, path in enumerate(paths)]
