"""Sources of a minWM recipe's parts: official files with a prepared data set, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.errors import UserError
from worldcompass.runs.requirements import NeededFile
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, blank_decoder, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.minwm import ACTIONS, CHUNK, NOT_CAUSAL, STAGES, TEXT, VIDEO, stage_of
from worldcompass.worlds.causal_wan.tiny import conditioning
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.prepared import IfAny, Shape
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.sources import BlendStandIns, VideoFiles
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.open.weights import GENERATOR_FILE, load_weights, shapes_in_file

ENTRIES = ("generator_ema", "generator")  # of a checkpoint; the official loader prefers the first, too
RELEASED = "Wan21/Action2V"  # folder of the stages in MIN-Lab/minWM
SINGLE_MOVES = "move=4, yaw=4, pitch=2"  # the training's trajectories never combined keys


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
class OfficialFiles(VideoFiles):
    """Official checkpoints, a data set from ``worldcompass prepare``, and drawn trajectories."""

    checkpoints: Path
    """Folder with ``Wan21/Action2V`` of MIN-Lab/minWM and ``Wan2.1_VAE.pth`` of Wan-AI/Wan2.1-T2V-1.3B."""
    stage: str = "dmd"
    """The checkpoint's stage of training, which decides its sampler, see ``minwm.STAGES``."""
    mix: str | None = field(default=SINGLE_MOVES, kw_only=True)
    """Motions of trajectories, see ``worlds.trajectories.parse_mix``."""
    generator: Path | None = None
    """Another file of the network, such as one of a run."""

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
        found = self.drawn(conditioning_shapes(config, latent_size), ACTIONS, num_latents, seed)
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
        """Conditioning and caption of a recording, see ``PreparedFiles.start``."""
        return self.start(video, conditioning_shapes(config, latent_size))

    def decoder(self, device: str) -> Decoder:
        """The video decoder with its official weights."""
        return load_decoder(self.checkpoints / VAE_FILE, device, self.decoder_dtype)

    def blank_decoder(self) -> Decoder:
        """The video decoder on the meta device."""
        return blank_decoder(self.decoder_dtype)


@dataclass(frozen=True)
class StandIns(BlendStandIns):
    """Random weights, prompts and trajectories, with ``Blend`` as the decoder."""

    stage: str = "dmd"
    """See ``OfficialFiles``."""

    def blank_decoder(self) -> Decoder:
        """The same decoder."""
        return Blend(self.pixels_per_cell)

    def scenarios(
        self, config: Config, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random prompts with one random trajectory each."""
        return self.drawn(ACTIONS, num_latents, seed, partial(conditioning, config), SINGLE_MOVES)

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """A random prompt; see ``OfficialFiles``."""
        return self.start(video, partial(conditioning, config))
