"""Sources of a recipe's parts: published files with a prepared data set, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.actions import ActionSpace
from worldcompass.runs.requirements import NeededFile, parts
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.causal_wan.autoencoder_files import VAE_FILE, blank_decoder, load_decoder
from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.game_files import check_variant, load_game, shapes_in_game
from worldcompass.worlds.causal_wan.game_preparation import expected_shapes
from worldcompass.worlds.causal_wan.matrix_game import Variant
from worldcompass.worlds.causal_wan.tiny_game import start_image
from worldcompass.worlds.open.decoder import Decoder
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.starts import drawn_actions, prepared_scenarios, prepared_start
from worldcompass.worlds.open.tiny import Blend, randomise
from worldcompass.worlds.open.weights import file_in, shapes_in_file


@dataclass(frozen=True)
class GameFiles:
    """A published checkpoint, a data set from ``worldcompass prepare``, and drawn commands."""

    checkpoints: Path
    """Folder with the network (see ``released``) and Wan2.1's video autoencoder."""
    data: Path
    """Folder of one safetensors file per image."""
    released: str
    """Place of the network in ``checkpoints`` as it is downloaded."""
    transformer: Path | None = None
    """Another file or folder of the network, such as that of an earlier run."""
    vae: Path | None = None
    """Another place of the video autoencoder, ``Wan2.1_VAE.pth``."""
    mix: str | None = None
    """Commands to draw with weights, such as ``w=4, w+left=1``; every key and pair alike when None."""
    trajectories_per_image: int = 1
    """Number of scenarios per image."""
    half_decoder: bool = False
    """Decode in bfloat16 instead of float32, for half the memory and slightly different pictures."""

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Load the published weights; see ``load_game``."""
        load_game(net, self._transformer, dtype, device)

    def decoder(self, device: str) -> Decoder:
        """Wan2.1's video autoencoder with its published weights."""
        return load_decoder(self._vae, device, self._decoder_dtype)

    def blank_decoder(self) -> Decoder:
        """The same on the meta device."""
        return blank_decoder(self._decoder_dtype, self._vae)

    def check(self, variant: Variant) -> None:
        """Check that the network's file, if it is there, is of this variant.

        Raises:
            UserError: in one sentence.
        """
        if self._transformer.is_file():
            check_variant(self._transformer, variant)

    def scenarios(
        self, config: Config, space: ActionSpace, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per image and drawn commands.

        Raises:
            UserError: when the data set is missing, lacks a tensor or has latents of another size.
        """
        return prepared_scenarios(
            self.data,
            expected_shapes(config, latent_size),
            self.trajectories_per_image,
            lambda names: drawn_actions(space, names, num_latents, seed, self.mix),
        )

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning of a recording, prepared from its first frame.

        Raises:
            UserError: when it is missing, or was prepared from something else.
        """
        return prepared_start(self.data, video, expected_shapes(config, latent_size))

    def weight_files(self) -> list[Path]:
        """The files of the network's weights."""
        return parts(self._transformer)

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of network and autoencoder."""
        return (
            NeededFile(self._transformer, "the network", network, shapes_in_game),
            NeededFile(self._vae, "Wan2.1's video autoencoder", decoder, shapes_in_file),
            NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"),
        )

    @property
    def _transformer(self) -> Path:
        if self.transformer is not None:
            return self.transformer if self.transformer.suffix else file_in(self.transformer)
        return self.checkpoints / self.released

    @property
    def _vae(self) -> Path:
        return self.vae or self.checkpoints / VAE_FILE

    @property
    def _decoder_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.half_decoder else torch.float32


@dataclass(frozen=True)
class StandIns:
    """Random weights, start images and commands, with ``Blend`` as the decoder."""

    num_scenarios: int = 4
    pixels_per_cell: int = 8

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Set random weights, the same on every device."""
        net.to_empty(device=device).to(dtype)
        randomise(net, generator_for("stand-in weights"))

    def decoder(self, device: str) -> Decoder:
        """A decoder without weights."""
        return Blend(self.pixels_per_cell)

    def blank_decoder(self) -> Decoder:
        """The same decoder."""
        return Blend(self.pixels_per_cell)

    def check(self, variant: Variant) -> None:
        """No file to check."""

    def scenarios(
        self, config: Config, space: ActionSpace, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random start images with drawn commands."""
        names = [f"stand-in-{i}" for i in range(self.num_scenarios)]
        drawn = drawn_actions(space, names, num_latents, seed)
        return [
            Scenario(name, actions, conditioning=start_image(config, latent_size, generator_for(seed, name)))
            for name, actions in zip(names, drawn, strict=True)
        ]

    def start_of(
        self, video: Path, config: Config, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """A random start image; see ``GameFiles``."""
        return start_image(config, latent_size, generator_for("stand-in", video.stem)), ""

    def weight_files(self) -> list[Path]:
        """No files."""
        return []

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """No files."""
        return ()
