"""The recipe of Matrix-Game 2 and ForgeWM, with the settings of the method's paper as far as they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.noise import ExplicitLevels
from worldcompass.recordings import ReadActions
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.played import INVERSE_DYNAMICS, PlayedRewards
from worldcompass.training.config import Config as Training
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.action_module import ActionConfig
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.game_files import export_game, load_game
from worldcompass.worlds.causal_wan.game_preparation import expected_shapes, preparation_of
from worldcompass.worlds.causal_wan.game_sources import GameFiles, StandIns
from worldcompass.worlds.causal_wan.matrix_game import (
    CHUNK,
    LATENT_SIZE,
    LATENTS,
    Sight,
    Variant,
    build,
    matrix_game,
    sizes_of,
)
from worldcompass.worlds.causal_wan.recorded_play import read_play
from worldcompass.worlds.causal_wan.world import CausalWanContext, CausalWanWorld
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.paper import PAPER
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import SizedRecipe, begin_on
from worldcompass.worlds.open.weights import FILE_NAME

CLIPS = 7  # of the curriculum, 21 latents and 81 frames: the length of ForgeWM's training videos


@dataclass(frozen=True, kw_only=True)
class GameRecipe(SizedRecipe):
    """See ``OpenRecipe``. Recordings are videos with keyboard and mouse, see ``recorded_play``."""

    model: str
    """As ``worldcompass prepare`` takes it."""
    variant: Variant
    """Of the network's weights."""
    network: Config
    actions: ActionConfig
    """Sizes of the modules for actions."""
    source: GameFiles | StandIns
    """Source of weights, decoder, start images and commands."""
    latent_size: tuple[int, int] = LATENT_SIZE
    """Cells of a latent, (height, width); 8 pixels each in the published models."""
    sight: Sight
    """Which latents a chunk sees."""
    exports: str = FILE_NAME
    """The name of the exported file."""
    rewards: Rewards = field(default_factory=PlayedRewards)
    """Source of the critics."""

    def build(self, fill: Callable[[nn.Module], object], decoder: Decoder) -> CausalWanWorld:
        """See ``OpenRecipe``."""
        with torch.device("meta"):
            net = build(self.network, self.actions, self.recompute)
        fill(net)
        # A network of another depth, for plans, has modules in fewer blocks.
        variant = replace(self.variant, action_blocks=self.network.action_blocks)
        return matrix_game(net, decoder, variant, self.latent_size, self.sight)

    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """See ``OpenRecipe``."""
        space = self.variant.devices.space
        return self.source.scenarios(self.network, space, self.latent_size, num_latents, seed)

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        return preparation_of(self.model, self.network, self.latent_size)

    def check_settings(self) -> None:
        """See ``OpenRecipe``; also refuses guidance, and the checkpoint of another variant.

        Raises:
            UserError: says which settings fit together.
        """
        super().check_settings()
        if self.config.sampling.explore:
            why = self.variant.guided or "was never trained without commands: none means to stand still"
            raise UserError(
                f"{self.variant.name} {why}, so its candidates cannot differ by guidance: set config.explore=0"
            )
        self.source.check(self.variant)

    @property
    def num_blocks(self) -> int:
        """See ``OpenRecipe``: stretches of blocks with as many modules for actions in each."""
        return gcd(self.network.num_blocks, len(self.network.action_blocks))

    def with_depth(self, num_blocks: int) -> Self:
        """See ``OpenRecipe``; ``num_blocks`` counts stretches."""
        whole, acting = self.network.num_blocks, len(self.network.action_blocks)
        network = replace(
            self.network,
            num_blocks=num_blocks * whole // self.num_blocks,
            action_blocks=tuple(range(num_blocks * acting // self.num_blocks)),
        )
        return replace(self, network=network)

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``."""
        return CLIPS - 1 if self.sight.latents is None else -(-self.sight.latents // CHUNK) - 1

    def begin(self, world: CausalWanWorld, pasts: int) -> CausalWanContext:
        """See ``OpenRecipe``."""
        shapes = expected_shapes(self.network, self.latent_size)
        image = {name: torch.zeros([n or 1 for n in shape]) for name, shape in shapes.items()}
        return begin_on(world, pasts, image)

    def first_latent(self, conditioning: Mapping[str, Tensor]) -> Tensor:
        """See ``OpenRecipe``."""
        return conditioning[LATENTS][:, 0]

    def export(self, net: nn.Module, file: Path) -> None:
        """See ``OpenRecipe``."""
        export_game(net, file)

    def load(self, net: nn.Module, file: Path, dtype: torch.dtype, device: str) -> None:
        """See ``OpenRecipe``."""
        load_game(net, file, dtype, device)

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return self.exports

    @property
    def read_actions(self) -> ReadActions:
        """See ``OpenRecipe``: keyboard and mouse of every frame, or a path."""
        return partial(read_play, self.variant.devices)


def game_recipe(model: str, variant: Variant, source: GameFiles, exports: str = FILE_NAME) -> GameRecipe:
    """The recipe of a published checkpoint: trains the whole network and needs several GPUs.

    Args:
        model: as ``worldcompass prepare`` takes it.
        variant: of the checkpoint.
        source: of its files.
        exports: the name of the exported file.
    """
    network, actions = sizes_of(variant)
    return GameRecipe(
        config=settings(variant),
        model=model,
        variant=variant,
        network=network,
        actions=actions,
        source=source,
        sight=variant.sight,
        exports=exports,
    )


def settings(variant: Variant) -> Training:
    """The paper's settings for a checkpoint. A student is trained on every one of its few noise levels."""
    steps = variant.schedule.num_steps
    levels = steps if isinstance(variant.schedule, ExplicitLevels) else PAPER.learning.noise_levels
    return PAPER.changed(
        last_chunk=CLIPS - 1,
        denoising_steps=steps,
        noise_levels=levels,
        max_grad_norm=2.0 / levels,  # of a loss that sums over them; here the mean of rows
        weights={INVERSE_DYNAMICS: 2.0, QUALITY: 1.0},
    )
