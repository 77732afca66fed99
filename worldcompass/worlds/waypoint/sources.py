"""Sources of a Waypoint recipe's parts: official files with a prepared dataset, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.runs.requirements import NeededFile
from worldcompass.types import Scenario
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.sources import PreparedFiles, RandomStandIns
from worldcompass.worlds.waypoint.autoencoder import Autoencoder, FrameCoder
from worldcompass.worlds.waypoint.config import WaypointConfig
from worldcompass.worlds.waypoint.preparation import AUTOENCODER, expected_shapes
from worldcompass.worlds.waypoint.tiny import TINY, Colours, conditioning
from worldcompass.worlds.waypoint.transformer import WaypointTransformer
from worldcompass.worlds.waypoint.weights import (
    CONFIG_FILE,
    DECODER_FILES,
    ENCODER_FILES,
    FILE_NAME,
    blank_autoencoder,
    load_coder,
    load_waypoint,
    read_shapes,
    unfused,
)
from worldcompass.worlds.waypoint.world import Coder


@dataclass(frozen=True)
class OfficialFiles(PreparedFiles):
    """An official checkpoint, a dataset from ``worldcompass prepare``, and drawn input."""

    checkpoints: Path
    """Folder with ``config.yaml``, ``model.safetensors`` and the autoencoder in ``autoencoder/``."""
    transformer: Path | None = None
    """Another file of the transformer's weights, such as that of an earlier run."""

    @property
    def network(self) -> WaypointConfig:
        """Sizes and noise levels as the file says, those of Waypoint-1-Small before it is there.

        Raises:
            UserError: when the file is of another network.
        """
        file = self.checkpoints / CONFIG_FILE
        return WaypointConfig.from_yaml(file) if file.is_file() else WaypointConfig()

    def fill(self, net: WaypointTransformer, dtype: torch.dtype, device: str) -> None:
        """Load the official weights; see ``load_waypoint``."""
        load_waypoint(net, self.network_file, dtype, device)

    def decoder(self, device: str) -> Coder:
        """The autoencoder with its official weights."""
        return load_coder(self.checkpoints / AUTOENCODER, device)

    def blank_decoder(self) -> Coder:
        """The autoencoder on the meta device, of the released sizes before its files are there.

        Raises:
            UserError: when its configurations are of another network.
        """
        folder = self.checkpoints / AUTOENCODER
        if all((folder / files[0]).is_file() for files in (ENCODER_FILES, DECODER_FILES)):
            return FrameCoder(blank_autoencoder(folder))
        with torch.device("meta"):
            return FrameCoder(Autoencoder())

    def scenarios(
        self, network: WaypointConfig, space: ActionSpace, num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per image and drawn input.

        Raises:
            UserError: when the dataset is missing, lacks a tensor or has latents of another size.
        """
        return self.drawn(expected_shapes(network), space, num_latents, seed)

    def start_of(self, network: WaypointConfig, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning and caption of a recording, see ``PreparedFiles.start``."""
        return self.start(video, expected_shapes(network))

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of transformer and autoencoder."""
        folder = self.checkpoints / AUTOENCODER
        found = [
            NeededFile(
                self.checkpoints / CONFIG_FILE, "the model's configuration, of Overworld/Waypoint-1-Small"
            ),
            NeededFile(self.network_file, "Waypoint's transformer", network),
        ]
        for half, (settings, weights) in (("encoder", ENCODER_FILES), ("decoder", DECODER_FILES)):
            own = {k.removeprefix(f"{half}."): s for k, s in decoder.items() if k.startswith(f"{half}.")}
            found.append(NeededFile(folder / settings, f"the configuration of the autoencoder's {half}"))
            found.append(NeededFile(folder / weights, f"the autoencoder's {half}", unfused(own), read_shapes))
        return (*found, NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"))

    @property
    def network_file(self) -> Path:
        """The file of the network's weights."""
        return self.transformer or self.checkpoints / FILE_NAME


@dataclass(frozen=True)
class StandIns(RandomStandIns):
    """Random weights, starts and input, with ``Colours`` as the autoencoder."""

    network: WaypointConfig = TINY

    def decoder(self, device: str) -> Coder:
        """An autoencoder without weights."""
        return self.blank_decoder()

    def blank_decoder(self) -> Coder:
        """The same autoencoder."""
        return Colours(self.network.latent_shape[1:], self.pixels_per_cell)

    def scenarios(
        self, network: WaypointConfig, space: ActionSpace, num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random starts with one drawn input each."""
        return self.drawn(space, num_latents, seed, partial(conditioning, network))

    def start_of(self, network: WaypointConfig, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """A random start; see ``OfficialFiles``."""
        return self.start(video, partial(conditioning, network))
