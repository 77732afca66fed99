"""The recipe of Waypoint-1 and 1.1, with the paper's settings as far as they fit single frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from worldcompass.recordings import ReadActions
from worldcompass.rewards.bundle import Rewards
from worldcompass.rewards.paper import QUALITY
from worldcompass.rewards.played import INVERSE_DYNAMICS, PlayedRewards
from worldcompass.types import Scenario
from worldcompass.worlds.open.paper import PAPER
from worldcompass.worlds.open.prepare import Preparation
from worldcompass.worlds.open.recipe import OpenRecipe, Shapes, begin_on
from worldcompass.worlds.waypoint.config import WaypointConfig
from worldcompass.worlds.waypoint.controls import waypoint_controls
from worldcompass.worlds.waypoint.preparation import preparation_of
from worldcompass.worlds.waypoint.recordings import read_play
from worldcompass.worlds.waypoint.sources import OfficialFiles, StandIns
from worldcompass.worlds.waypoint.transformer import WaypointTransformer
from worldcompass.worlds.waypoint.weights import (
    FILE_NAME,
    export_waypoint,
    load_waypoint,
    official_shapes,
)
from worldcompass.worlds.waypoint.world import Coder, Waypoint, WaypointContext, aged


@dataclass(frozen=True, kw_only=True)
class WaypointRecipe(OpenRecipe):
    """See ``OpenRecipe``. Recordings are videos with input, see ``waypoint.recordings``."""

    source: OfficialFiles | StandIns
    """Source of weights, autoencoder, conditioning and input."""
    rewards: Rewards = field(default_factory=PlayedRewards)
    """Source of the critics."""
    depth: int | None = None
    """Layers of the network instead of the file's, for ``worldcompass plan``."""

    @property
    def network(self) -> WaypointConfig:
        """Sizes and options of the network, as its configuration says."""
        found = self.source.network
        return found if self.depth is None else replace(found, num_layers=self.depth)

    def build(self, fill: Callable[[nn.Module], object], decoder: Coder) -> Waypoint:
        """See ``OpenRecipe``."""
        with torch.device("meta"):
            net = WaypointTransformer(self.network, self.recompute)
        fill(net)
        return Waypoint(net, decoder)

    def blank_decoder(self) -> Coder:
        """See ``OpenRecipe``."""
        return self.source.blank_decoder()

    def scenarios_along(self, num_latents: int, seed: int) -> list[Scenario]:
        """See ``OpenRecipe``."""
        network = self.network
        space = waypoint_controls(network.num_buttons)
        return self.source.scenarios(network, space, num_latents, seed)

    def start_of(self, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """See ``OpenRecipe``."""
        return self.source.start_of(self.network, video)

    def preparation(self) -> Preparation:
        """See ``OpenRecipe``."""
        return preparation_of(self.network)

    @property
    def num_blocks(self) -> int:
        """See ``OpenRecipe``: stretches of layers of which one reads the controls, as layers differ."""
        network = self.source.network
        return -(-network.num_layers // network.control_period)

    def with_depth(self, num_blocks: int) -> Self:
        """See ``OpenRecipe``; ``num_blocks`` stretches have exactly the network's layers."""
        network = self.source.network
        fewer = (self.num_blocks - num_blocks) * network.control_period
        return replace(self, depth=network.num_layers - fewer)

    @property
    def remembered_chunks(self) -> int:
        """See ``OpenRecipe``: ``begin`` has filled the rings already."""
        return 1

    def begin(self, world: Waypoint, pasts: int) -> WaypointContext:
        """See ``OpenRecipe``: pasts of the curriculum's age, as tracing every frame of them would take minutes."""
        network = world.net.config
        start = {"latent": torch.zeros(network.latent_shape)}
        if network.prompt_width is not None:
            start["text_states"] = torch.zeros(network.prompt_length, network.prompt_width)
        return aged(world, begin_on(world, pasts, start), self.config.sampling.last_chunk)

    @property
    def exported(self) -> str:
        """See ``OpenRecipe``."""
        return FILE_NAME

    def export(self, net: Any, file: Path) -> None:
        """See ``OpenRecipe``; all copies of tied matrices are written."""
        export_waypoint(net, file)

    def load(self, net: Any, file: Path, dtype: torch.dtype, device: str) -> None:
        """See ``OpenRecipe``."""
        load_waypoint(net, file, dtype, device)

    def shapes_in_file(self, net: Any) -> Shapes:
        """See ``OpenRecipe``."""
        return official_shapes(net)

    def file_in(self, folder: Path) -> Path:
        """See ``OpenRecipe``."""
        return folder / FILE_NAME

    @property
    def read_actions(self) -> ReadActions:
        """See ``OpenRecipe``: recorded input, or a path."""
        return read_play


# One chunk is one frame, so that the curriculum counts frames. None of it is tried on real weights.
SETTINGS = PAPER.changed(
    first_chunk=8,  # frame 0 is given, and critics need a few frames to see a motion
    last_chunk=63,  # about a second, four times what a local layer sees
    clip_chunks=15,  # a quarter of a second: one frame does not show what a key does
    denoising_steps=None,  # those of the checkpoint
    noise_levels=3,  # all of the shortest published schedule
    max_grad_norm=2.0 / 3,  # again of a sum over them
    weights={INVERSE_DYNAMICS: 2.0, QUALITY: 1.0},
)
