"""What a recipe of a small world needs, for ``worldcompass plan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldcompass.cost.plan import Needs
from worldcompass.runs.requirements import NeededFile
from worldcompass.seeding import generator_for
from worldcompass.training.config import Config
from worldcompass.training.optim import choose_trained
from worldcompass.types import Scenario
from worldcompass.world import WorldModel, WorldSpec
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.transformer import ChunkTransformer
from worldcompass.worlds.small.weights import WeightFiles

Modules = tuple[nn.Module, ChunkTransformer]
"""Autoencoder and network."""


@dataclass(frozen=True)
class Plain:
    """A small world as a plan sees it."""

    spec: WorldSpec
    weights: WeightFiles
    shipped: Path
    """Their folder inside the package."""
    depth: int
    """Blocks of the whole network."""
    modules: Callable[[int], Modules]
    """Makes both with the given number of blocks."""
    world: Callable[[Any, Any], WorldModel[Any]]
    """Makes a world of both."""
    critics: Sequence[str]
    """File names of the critics' and the judge's weights, next to the world's, without the suffix."""


def needs_of(of: Plain, config: Config) -> Needs:
    """A small world under this configuration, on the meta device."""
    autoencoder, net = _on_meta(of, of.depth)
    own = [
        NeededFile(of.shipped / name, "the embedded world, shipped with the package", _shapes(module))
        for name, module in ((of.weights.autoencoder, autoencoder), (of.weights.net, net))
    ]
    critics = [
        NeededFile(of.shipped / f"{name}.safetensors", "its critics and judge, shipped with the package")
        for name in of.critics
    ]
    choose_trained(net, config.optimiser, generator_for("plan"))

    def world_of_depth(depth: int) -> tuple[WorldModel[Any], list[nn.Module]]:
        codec, blocks = _on_meta(of, depth)
        world = of.world(codec, blocks)
        choose_trained(blocks, config.optimiser, generator_for("plan"))
        return world, [blocks, codec]

    def begin(world: WorldModel[Any], pasts: int) -> SmallContext:
        still = of.spec.actions.commanded(torch.zeros(1))
        black = torch.zeros(3, *of.spec.frame_size, dtype=torch.uint8)
        return world.begin([Scenario(f"{i}", still, image_3hw=black) for i in range(pasts)])

    return Needs(
        config=config,
        spec=of.spec,
        net=net,
        other_bytes=sum(value.nbytes for value in autoencoder.state_dict().values()),
        num_blocks=of.depth,
        world_of_depth=world_of_depth,
        begin=begin,
        num_chunks=config.sampling.last_chunk,
        files=(*own, *critics),
    )


def _on_meta(of: Plain, depth: int) -> Modules:
    with torch.device("meta"):
        return of.modules(depth)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
