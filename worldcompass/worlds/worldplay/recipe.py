"""The recipe of both WorldPlay models, with the settings of the method's paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from worldcompass.recordings import ReadActions
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import PaperRewards
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.poses import TRAINING_MOTION
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import SizedRecipe
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE
from worldcompass.worlds.worldplay.config import Config5B, Config8B
from worldcompass.worlds.worldplay.context import timesteps, whole_timesteps
from worldcompass.worlds.worldplay.preparation import preparation_of
from worldcompass.worlds.worldplay.recordings import read_moves
from worldcompass.worlds.worldplay.sources import OfficialFiles, StandIns
from worldcompass.worlds.worldplay.transformer_5b import Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.world import CHUNK, FAMILY_5B, FAMILY_8B, WorldPlay, WorldPlayContext

Network = Config8B | Config5B
Source = OfficialFiles | StandIns


@dataclass(frozen=True, kw_only=True)
class WorldPlayRecipe(SizedRecipe):
    """See ``OpenRecipe``. Recordings are videos with poses, see ``worldplay.recordings``."""

    network: Network
    latent_size: tuple[int, int]
    """Cells of a latent, (height, width); 16 pixels each in the official models."""
    source: Source
    """Source of weights, decoder, conditioning and trajectories."""
    whole_timesteps: bool = False
    """Truncate the network's timesteps to whole numbers, as the released training does."""
    rewards: Rewards = field(default_factory=PaperRewards)
    """Source of the critics."""

    def build(self, fill: Callable[[nn.Module], object], decoder: Decoder) -> WorldPlay:
        """See ``OpenRecipe``."""
        kind = Transformer8B if isinstance(self.network, Config8B) else Transformer5B
        family = FAMILY_8B if isinstance(self.network, Config8B) else FAMILY_5B
        with torch.device("meta"):
            net = kind(self.network, self.recompute)  # type: ignore[arg-type]
        fill(net)
        timestep_of = whole_timesteps if self.whole_timesteps else timesteps
        return WorldPlay(family, net, decoder, self.latent_size, TRAINING_MOTION, timestep_of)

    def blank_decoder(self) -> Decoder:
        """See ``OpenRecipe``."""
        return self.source.blank_decoder(self.network)

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        return preparation_of(self.network, self.latent_size)

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``."""
        family = FAMILY_8B if isinstance(self.network, Config8B) else FAMILY_5B
        return family.memory.num_latents // CHUNK

    def begin(self, world: Any, pasts: int) -> WorldPlayContext:
        """See ``OpenRecipe``."""
        return self.source.begin(world, pasts)

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return FILE_NAME if isinstance(self.network, Config8B) else GENERATOR_FILE

    @property
    def read_actions(self) -> ReadActions:
        """See ``OpenRecipe``: poses in the official form, or a path."""
        return read_moves
