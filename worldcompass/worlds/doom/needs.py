"""What a recipe of the embedded world needs, for ``worldcompass plan``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from worldcompass.cost.plan import Needs
from worldcompass.runs.requirements import NeededFile
from worldcompass.seeding import generator_for
from worldcompass.training.config import Config
from worldcompass.training.optim import choose_trained
from worldcompass.types import Scenario
from worldcompass.world import WorldModel
from worldcompass.worlds.doom.critics.weights import FILES
from worldcompass.worlds.doom.network.autoencoder import DoomAutoencoder
from worldcompass.worlds.doom.network.transformer import CONFIG, DoomTransformer
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, DoomWorld, shipped_weights
from worldcompass.worlds.small.context import SmallContext


def needs_of(config: Config) -> Needs:
    """The embedded world under this configuration, on the meta device."""
    folder = shipped_weights()
    autoencoder, net = _modules(CONFIG.depth)
    own = [
        NeededFile(folder / name, "the embedded world, shipped with the package", _shapes(module))
        for name, module in ((WEIGHTS.autoencoder, autoencoder), (WEIGHTS.net, net))
    ]
    critics = [
        NeededFile(folder / f"{name}.safetensors", "its critics and judge, shipped with the package")
        for name in FILES
    ]
    choose_trained(net, config.optimiser, generator_for("plan"))
    return Needs(
        config=config,
        spec=SPEC,
        net=net,
        other_bytes=sum(p.nbytes for p in autoencoder.parameters()),
        num_blocks=len(net.blocks),
        world_of_depth=lambda depth: _world(config, depth),
        begin=_begin,
        num_chunks=config.sampling.last_chunk,
        files=(*own, *critics),
    )


def _modules(depth: int) -> tuple[DoomAutoencoder, DoomTransformer]:
    with torch.device("meta"):
        return DoomAutoencoder(), DoomTransformer(replace(CONFIG, depth=depth))


def _world(config: Config, depth: int) -> tuple[DoomWorld, list[nn.Module]]:
    autoencoder, net = _modules(depth)
    world = DoomWorld(autoencoder, net)
    choose_trained(net, config.optimiser, generator_for("plan"))
    return world, [net, autoencoder]


def _begin(world: WorldModel[Any], pasts: int) -> SmallContext:
    still = SPEC.actions.commanded(torch.zeros(1))
    black = torch.zeros(3, *SPEC.frame_size, dtype=torch.uint8)
    return world.begin([Scenario(f"{i}", still, image_3hw=black) for i in range(pasts)])


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
