"""Bases of the sources of open models: official files with a prepared data set, or random stand-ins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.actions import ActionSpace
from worldcompass.runs.requirements import NeededFile, parts
from worldcompass.seeding import generator_for
from worldcompass.types import Scenario
from worldcompass.worlds.open.prepared import Shape
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.starts import drawn_actions, prepared_scenarios, prepared_start
from worldcompass.worlds.open.tiny import Blend, randomise

Conditioning = Mapping[str, Tensor]


@dataclass(frozen=True)
class PreparedFiles(ABC):
    """The base of a ``Source`` of official files, with a data set from ``worldcompass prepare``."""

    checkpoints: Path
    """Folder of the official files."""
    data: Path
    """Folder of one safetensors file per start."""
    mix: str | None = field(default=None, kw_only=True)
    """Commands to draw with weights, such as ``w=4, w+left=1``; every key and pair alike when None."""
    trajectories_per_image: int = field(default=1, kw_only=True)
    """Number of scenarios per start."""

    @property
    @abstractmethod
    def network_file(self) -> Path:
        """The file of the network's weights."""

    def weight_files(self) -> list[Path]:
        """The files of the network's weights."""
        return parts(self.network_file)

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def drawn(
        self, shapes: Mapping[str, Shape], space: ActionSpace, num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per start and drawn commands.

        Raises:
            UserError: when the data set is missing, lacks a tensor or has latents of another size.
        """
        return prepared_scenarios(
            self.data,
            shapes,
            self.trajectories_per_image,
            lambda names: drawn_actions(space, names, num_latents, seed, self.mix),
        )

    def start(self, video: Path, shapes: Mapping[str, Shape]) -> tuple[Conditioning, str]:
        """Conditioning and caption of a recording, prepared from its first frames.

        Raises:
            UserError: when they are missing, or were prepared from something else.
        """
        return prepared_start(self.data, video, shapes)


@dataclass(frozen=True)
class VideoFiles(PreparedFiles):
    """The same, with a large video decoder."""

    half_decoder: bool = field(default=False, kw_only=True)
    """Decode in bfloat16 instead of float32, for half the memory and slightly different pictures."""

    @property
    def decoder_dtype(self) -> torch.dtype:
        """Of the decoder's weights and arithmetic."""
        return torch.bfloat16 if self.half_decoder else torch.float32


@dataclass(frozen=True)
class RandomStandIns:
    """The base of a ``Source`` without files: random weights and starts."""

    num_scenarios: int = field(default=4, kw_only=True)
    pixels_per_cell: int = field(default=8, kw_only=True)

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Set random weights, the same on every device."""
        net.to_empty(device=device).to(dtype)
        randomise(net, generator_for("stand-in weights"))

    def weight_files(self) -> list[Path]:
        """No files."""
        return []

    def notes(self) -> tuple[str, ...]:
        """Nothing to check."""
        return ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """No files."""
        return ()

    def drawn(
        self,
        space: ActionSpace,
        num_latents: int,
        seed: int,
        start: Callable[[torch.Generator], Conditioning],
        mix: str | None = None,
    ) -> list[Scenario]:
        """Random starts with drawn commands."""
        names = [f"stand-in-{i}" for i in range(self.num_scenarios)]
        drawn = drawn_actions(space, names, num_latents, seed, mix)
        return [
            Scenario(name, actions, conditioning=start(generator_for(seed, name)))
            for name, actions in zip(names, drawn, strict=True)
        ]

    def start(
        self, video: Path, start: Callable[[torch.Generator], Conditioning]
    ) -> tuple[Conditioning, str]:
        """A random start of a recording, without a caption."""
        return start(generator_for("stand-in", video.stem)), ""


@dataclass(frozen=True)
class BlendStandIns(RandomStandIns):
    """Random weights and starts, with ``Blend`` as the decoder."""

    def decoder(self, device: str) -> Blend:
        """A decoder without weights."""
        return Blend(self.pixels_per_cell)
