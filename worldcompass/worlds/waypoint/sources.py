"""Sources of a Waypoint recipe's parts: official files with a prepared dataset, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.actions import ActionSpace
from worldcompass.runs.requirements import NeededFile, parts
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.starts import drawn_actions, prepared_scenarios, prepared_start
from worldcompass.worlds.open.tiny import randomise
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
class OfficialFiles:
    """An official checkpoint, a dataset from ``worldcompass prepare``, and drawn input."""

    checkpoints: Path
    """Folder with ``config.yaml``, ``model.safetensors`` and the autoencoder in ``autoencoder/``."""
    data: Path
    """Folder of one safetensors file per image."""
    mix: str | None = None
    """Keys of the drawn input with weights, such as ``w=4, w+left=1``; every key and pair alike when None."""
    trajectories_per_image: int = 1
    """Number of scenarios per image."""
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
        load_waypoint(net, self._transformer, dtype, device)

    def decoder(self, device: str) -> Coder:
        """The autoencoder with its official weights."""
        return load_coder(self.checkpoints / AUTOENCODER, device)

    def blank_decoder(self, network: WaypointConfig) -> Coder:
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
        return prepared_scenarios(
            self.data,
            expected_shapes(network),
            self.trajectories_per_image,
            lambda names: drawn_actions(space, names, num_latents, seed, self.mix),
        )

    def start_of(self, network: WaypointConfig, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning and caption of a recording, prepared from its first frame.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """
        return prepared_start(self.data, video, expected_shapes(network))

    def weight_files(self) -> list[Path]:
        """The files of the network's weights."""
        return parts(self._transformer)

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of transformer and autoencoder."""
        folder = self.checkpoints / AUTOENCODER
        found = [
            NeededFile(
                self.checkpoints / CONFIG_FILE, "the model's configuration, of Overworld/Waypoint-1-Small"
            ),
            NeededFile(self._transformer, "Waypoint's transformer", network),
        ]
        for half, (settings, weights) in (("encoder", ENCODER_FILES), ("decoder", DECODER_FILES)):
            own = {k.removeprefix(f"{half}."): s for k, s in decoder.items() if k.startswith(f"{half}.")}
            found.append(NeededFile(folder / settings, f"the configuration of the autoencoder's {half}"))
            found.append(NeededFile(folder / weights, f"the autoencoder's {half}", unfused(own), read_shapes))
        return (*found, NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"))

    @property
    def _transformer(self) -> Path:
        return self.transformer or self.checkpoints / FILE_NAME


@dataclass(frozen=True)
class StandIns:
    """Random weights, starts and input, with ``Colours`` as the autoencoder."""

    network: WaypointConfig = TINY
    num_scenarios: int = 4
    pixels_per_cell: int = 8

    def fill(self, net: WaypointTransformer, dtype: torch.dtype, device: str) -> None:
        """Set random weights, the same on every device."""
        net.to_empty(device=device).to(dtype)
        randomise(net, generator_for("stand-in weights"))

    def decoder(self, device: str) -> Coder:
        """An autoencoder without weights."""
        return self.blank_decoder(self.network)

    def blank_decoder(self, network: WaypointConfig) -> Coder:
        """The same autoencoder."""
        return Colours(network.latent_shape[1:], self.pixels_per_cell)

    def scenarios(
        self, network: WaypointConfig, space: ActionSpace, num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random starts with one drawn input each."""
        names = [f"stand-in-{i}" for i in range(self.num_scenarios)]
        drawn = drawn_actions(space, names, num_latents, seed)
        return [
            Scenario(name, actions, conditioning=conditioning(network, generator_for(seed, name)))
            for name, actions in zip(names, drawn, strict=True)
        ]

    def start_of(self, network: WaypointConfig, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """A random start; see ``OfficialFiles``."""
        return conditioning(network, generator_for("stand-in", video.stem)), ""

    def weight_files(self) -> list[Path]:
        """No files."""
        return []

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """No files."""
        return ()
