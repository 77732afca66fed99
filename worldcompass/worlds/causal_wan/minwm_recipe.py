"""The recipe of minWM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import PaperRewards
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.memory import Window
from worldcompass.worlds.causal_wan.minwm import (
    CHUNK,
    LATENT_SIZE,
    TEXT,
    VIDEO,
    WINDOW,
    check_network,
    minwm,
    stage_of,
)
from worldcompass.worlds.causal_wan.minwm_files import ENTRIES, OfficialFiles, StandIns, in_wrapper
from worldcompass.worlds.causal_wan.minwm_preparation import preparation_of
from worldcompass.worlds.causal_wan.network import CausalWan
from worldcompass.worlds.causal_wan.world import CausalWanContext, CausalWanWorld
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import SizedRecipe, begin_on
from worldcompass.worlds.open.weights import GENERATOR_FILE, export_weights, load_weights

Source = OfficialFiles | StandIns


@dataclass(frozen=True, kw_only=True)
class MinWMRecipe(SizedRecipe):
    """See ``OpenRecipe``. Recordings go on from their first chunk, which is given."""

    network: Config = field(default_factory=Config)
    latent_size: tuple[int, int] = LATENT_SIZE
    """Cells of a latent, (height, width); 8 pixels each."""
    window: Window = WINDOW
    """Latents in view; the released models never saw more than 20."""
    source: Source
    """Source of weights, decoder, conditioning and trajectories."""
    rewards: Rewards = field(default_factory=PaperRewards)
    """Source of the critics."""

    def build(self, fill: Callable[[nn.Module], object], decoder: Decoder) -> CausalWanWorld:
        """See ``OpenRecipe``."""
        check_network(self.network)
        with torch.device("meta"):
            net = CausalWan(self.network, recompute=self.recompute)
        fill(net)
        return minwm(net, decoder, self.latent_size, stage_of(self.source.stage), self.window)

    def scenarios(self) -> list[Scenario]:
        """See ``OpenRecipe``.

        Raises:
            UserError: when the first clip of the curriculum is given, as its futures would all be equal.
        """
        found = super().scenarios()
        if self.config.sampling.first_chunk == 0 and VIDEO in (found[0].conditioning or {}):
            raise UserError(
                f"scenario {found[0].id} goes on from a video, so clip 0 is given and has no futures to compare:"
                " set config.first_chunk=1"
            )
        return found

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        return preparation_of(self.network, self.latent_size)

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``; without a window as many as the curriculum has."""
        most = self.window.num_latents
        return self.config.sampling.last_chunk if most is None else max(1, -(-(most - CHUNK) // CHUNK))

    def begin(self, world: Any, pasts: int) -> CausalWanContext:
        """See ``OpenRecipe``."""
        longest = torch.zeros(self.network.text_length, self.network.states_width)
        return begin_on(world, pasts, {TEXT: longest})

    def first_latent(self, conditioning: Mapping[str, Tensor]) -> Tensor | None:
        """See ``OpenRecipe``: of the given video, if there is one."""
        return conditioning[VIDEO][:, 0] if VIDEO in conditioning else None

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return GENERATOR_FILE

    def export(self, net: nn.Module, file: Path) -> None:
        """See ``OpenRecipe``: under ``generator``, with the names inside the official wrapper."""
        export_weights(net, file, official=in_wrapper)

    def load(self, net: nn.Module, file: Path, dtype: torch.dtype, device: str) -> None:
        """See ``OpenRecipe``."""
        load_weights(net, file, dtype, device, ENTRIES)
