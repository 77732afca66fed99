"""Sources of a minWM recipe's parts: official files with a prepared data set, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.runs.requirements import NeededFile, parts
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, blank_decoder, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.minwm import ACTIONS, CHUNK, NOT_CAUSAL, STAGES, TEXT, VIDEO, stage_of
from worldcompass.worlds.causal_wan.tiny import conditioning
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.prepared import IfAny, Shape
from worldcompass.worlds.open.starts import drawn_actions, prepared_scenarios, prepared_start
from worldcompass.worlds.open.tiny import Blend, randomise
from worldcompass.worlds.open.weights import GENERATOR_FILE, load_weights, shapes_in_file

ENTRIES = ("generator_ema", "generator")  # of a checkpoint; the official loader prefers the first, too
RELEASED = "Wan21/Action2V"  # folder of the stages in MIN-Lab/minWM
SINGLE_MOVES = "move=4, yaw=4, pitch=2"  # the training's trajectories never combined keys

Shapes = Mapping[str, tuple[int, ...]]


def in_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a network inside the official wrapper, as the official loader expects them."""
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


def conditioning_shapes(config: Config, latent_size: tuple[int, int]) -> dict[str, Shape]:
    """Names and shapes of a prepared file's tensors."""
    return {
        TEXT: (None, config.states_width),
        VIDEO: IfAny((config.latent_channels, CHUNK, *latent_size)),
    }


@dataclass(frozen=True)
class OfficialFiles:
    """Official checkpoints, a data set from ``worldcompass prepare``, and drawn trajectories."""

    checkpoints: Path
    """Folder with ``Wan21/Action2V`` of MIN-Lab/minWM and ``Wan2.1_VAE.pth`` of Wan-AI/Wan2.1-T2V-1.3B."""
    data: Path
    """Folder of one safetensors file per prompt or video."""
    stage: str = "dmd"
    """The checkpoint's stage of training, which decides its sampler, see ``minwm.STAGES``."""
    mix: str = SINGLE_MOVES
    """Motions of trajectories, see ``worlds.trajectories.parse_mix``."""
    trajectories_per_image: int = 1
    """Number of scenarios per prompt or video."""
    generator: Path | None = None
    """Another file of the network, such as one of a run."""
    half_decoder: bool = False
    """Decode in bfloat16 instead of float32, for half the memory and slightly different pictures."""

    @property
    def network_file(self) -> Path:
        """The file of the stage's network.

        Raises:
            UserError: when the given file lies in the folder of another stage.
        """
        stage = stage_of(self.stage).name
        file = self.generator or self.checkpoints / RELEASED / stage / GENERATOR_FILE
        file = file / GENERATOR_FILE if file.is_dir() else file
        other = file.parent.name
        if other in {*STAGES, NOT_CAUSAL} - {stage}:
            raise UserError(
                f"{file} is of the stage {other}, and source.stage is {stage}: set source.stage={other}, or give"
                f" the file of {stage}"
            )
        return file

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Load the official weights; see ``load_weights``."""
        load_weights(net, self.network_file, dtype, device, ENTRIES)

    def weight_files(self) -> list[Path]:
        """The files of the network's weights."""
        return parts(self.network_file)

    def notes(self) -> tuple[str, ...]:
        """Nothing to check by eye."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of network and autoencoder."""
        read, what = partial(shapes_in_file, entries=ENTRIES), f"minWM's network, stage {self.stage}"
        return (
            NeededFile(self.network_file, what, network, read),
            NeededFile(self.checkpoints / VAE_FILE, "Wan2.1's video autoencoder", decoder, shapes_in_file),
            NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"),
        )

    def scenarios(
        self, config: Config, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per prepared file and trajectory.

        Raises:
            UserError: when the data set is missing, lacks a tensor, or mixes starts with and without a video.
        """

        def draw(names: Any) -> Any:
            return drawn_actions(ACTIONS, names, num_latents, seed, self.mix)

        shapes = conditioning_shapes(config, latent_size)
        found = prepared_scenarios(self.data, shapes, self.trajectories_per_image, draw)
        kinds = {VIDEO in (scenario.conditioning or {}): scenario.id for scenario in found}
        if len(kinds) > 1:
            raise UserError(
                f"{self.data} holds {kinds[True]}, which goes on from a video, and {kinds[False]}, which starts"
                " from its caption alone: keep the two kinds in folders of their own"
            )
        return found

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning and caption of a recording, prepared from its first frames.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """
        return prepared_start(self.data, video, conditioning_shapes(config, latent_size))

    def decoder(self, device: str) -> Decoder:
        """The video decoder with its official weights."""
        return load_decoder(self.checkpoints / VAE_FILE, device, self._decoder_dtype)

    def blank_decoder(self) -> Decoder:
        """The video decoder on the meta device."""
        return blank_decoder(self._decoder_dtype)

    @property
    def _decoder_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half_decoder else torch.float32


@dataclass(frozen=True)
class StandIns:
    """Random weights, prompts and trajectories, with ``Blend`` as the decoder."""

    num_scenarios: int = 4
    pixels_per_cell: int = 8
    stage: str = "dmd"
    """See ``OfficialFiles``."""

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Set random weights, the same on every device."""
        net.to_empty(device=device).to(dtype)
        randomise(net, generator_for("stand-in weights"))

    def decoder(self, device: str) -> Decoder:
        """A decoder without weights."""
        return self.blank_decoder()

    def blank_decoder(self) -> Decoder:
        """The same decoder."""
        return Blend(self.pixels_per_cell)

    def scenarios(
        self, config: Config, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random prompts with one random trajectory each."""
        names = [f"stand-in-{i}" for i in range(self.num_scenarios)]
        return [
            Scenario(name, actions, conditioning=conditioning(config, generator_for(seed, name)))
            for name, actions in zip(
                names, drawn_actions(ACTIONS, names, num_latents, seed, SINGLE_MOVES), strict=True
            )
        ]

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """A random prompt; see ``OfficialFiles``."""
        return conditioning(config, generator_for("stand-in", video.stem)), ""

    def weight_files(self) -> list[Path]:
        """No files."""
        return []

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """No files."""
        return ()
