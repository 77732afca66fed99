"""Sources of a recipe's parts: published files with a prepared data set, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.actions import ActionSpace
from worldcompass.runs.requirements import NeededFile
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, blank_decoder, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.game_files import check_variant, load_game, shapes_in_game
from worldcompass.worlds.causal_wan.game_preparation import expected_shapes
from worldcompass.worlds.causal_wan.matrix_game import Variant
from worldcompass.worlds.causal_wan.tiny_game import start_image
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.sources import BlendStandIns, VideoFiles
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.open.weights import file_in, shapes_in_file


@dataclass(frozen=True)
class GameFiles(VideoFiles):
    """A published checkpoint, a data set from ``worldcompass prepare``, and drawn commands."""

    checkpoints: Path
    """Folder with the network (see ``released``) and Wan2.1's video autoencoder."""
    released: str
    """Place of the network in ``checkpoints`` as it is downloaded."""
    transformer: Path | None = None
    """Another file or folder of the network, such as that of an earlier run."""
    vae: Path | None = None
    """Another place of the video autoencoder, ``Wan2.1_VAE.pth``."""

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Load the published weights; see ``load_game``."""
        load_game(net, self.network_file, dtype, device)

    def decoder(self, device: str) -> Decoder:
        """Wan2.1's video autoencoder with its published weights."""
        return load_decoder(self._vae, device, self.decoder_dtype)

    def blank_decoder(self) -> Decoder:
        """The same on the meta device."""
        return blank_decoder(self.decoder_dtype, self._vae)

    def check(self, variant: Variant) -> None:
        """Check that the network's file, if it is there, is of this variant.

        Raises:
            UserError: in one sentence.
        """
        if self.network_file.is_file():
            check_variant(self.network_file, variant)

    def scenarios(
        self, config: Config, space: ActionSpace, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per image and drawn commands.

        Raises:
            UserError: when the data set is missing, lacks a tensor or has latents of another size.
        """
        return self.drawn(expected_shapes(config, latent_size), space, num_latents, seed)

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning of a recording, see ``PreparedFiles.start``."""
        return self.start(video, expected_shapes(config, latent_size))

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of network and autoencoder."""
        return (
            NeededFile(self.network_file, "the network", network, shapes_in_game),
            NeededFile(self._vae, "Wan2.1's video autoencoder", decoder, shapes_in_file),
            NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"),
        )

    @property
    def network_file(self) -> Path:
        """The file of the network's weights."""
        if self.transformer is not None:
            return self.transformer if self.transformer.suffix else file_in(self.transformer)
        return self.checkpoints / self.released

    @property
    def _vae(self) -> Path:
        return self.vae or self.checkpoints / VAE_FILE


@dataclass(frozen=True)
class StandIns(BlendStandIns):
    """Random weights, start images and commands, with ``Blend`` as the decoder."""

    def blank_decoder(self) -> Decoder:
        """The same decoder."""
        return Blend(self.pixels_per_cell)

    def check(self, variant: Variant) -> None:
        """No file to check."""

    def scenarios(
        self, config: Config, space: ActionSpace, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random start images with drawn commands."""
        return self.drawn(space, num_latents, seed, partial(start_image, config, latent_size))

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """A random start image; see ``GameFiles``."""
        return self.start(video, partial(start_image, config, latent_size))
