"""Sources of a Nano recipe's parts: official files with a prepared dataset, or random stand-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from worldcompass.runs.requirements import NeededFile
from worldcompass.seeding import generator_for
from worldcompass.types import ControlValues, Scenario
from worldcompass.worlds.nano.actions import NanoActions, Statistics, actions_of
from worldcompass.worlds.nano.autoencoder import PictureDecoder
from worldcompass.worlds.nano.checkpoint import Checkpoint
from worldcompass.worlds.nano.preparation import CONTROLS, expected_shapes
from worldcompass.worlds.nano.tiny import TINY_CHECKPOINT, Colours
from worldcompass.worlds.nano.weights import (
    CONFIG_FILE,
    MODEL_FILE,
    PICTURES,
    blank_pictures,
    load_nano,
    load_pictures,
    network_shapes,
    picture_shapes,
)
from worldcompass.worlds.nano.world import START, Pictures
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.sources import PreparedFiles, RandomStandIns
from worldcompass.worlds.open.weights import FILE_NAME

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True)
class OfficialFiles(PreparedFiles):
    """An official checkpoint, a dataset from ``worldcompass prepare``, and drawn controls."""

    checkpoints: Path
    """Folder with ``config.yaml``, ``model.safetensors``, the autoencoder in ``vae/``, and ``statistics.json``."""
    statistics: Path | None = None
    """Mean and deviation of the training actions, see ``Statistics.read``; in ``checkpoints`` when None."""
    mix: str | None = field(default=None, kw_only=True)
    """Keys of drawn controls with weights, such as ``left=2, left+up=1``. When None, stretches of the recorded
    controls of the dataset are drawn, or without any all keys and pairs alike."""
    transformer: Path | None = None
    """Another file of the network's weights, such as that of an earlier run or a ``.ckpt`` of official training."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What ``config.yaml`` says; PushT's published one before it is there.

        Raises:
            UserError: when the file is of another model.
        """
        file = self.config_file
        return Checkpoint.from_yaml(file) if file.is_file() else Checkpoint()

    @cached_property
    def actions(self) -> NanoActions:
        """The controls; without statistics, which a run needs, with bounds from -1 to 1.

        Raises:
            UserError: when the statistics cannot be read or are of other controls.
        """
        own, file = self.checkpoint, self._statistics
        known = Statistics.read(file) if file.is_file() else None
        normalised = own.normalised and known is not None
        return actions_of(own.setting_size, own.per_latent, own.scale, normalised, known)

    @property
    def config_file(self) -> Path:
        """The configuration."""
        return self.checkpoints / CONFIG_FILE

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Load the official weights; see ``load_nano``."""
        load_nano(net, self.network_file, dtype, device)

    def decoder(self, device: str) -> Pictures:
        """The autoencoder with its official weights."""
        return load_pictures(self.checkpoints / PICTURES, device)

    def blank_decoder(self) -> Pictures:
        """The autoencoder on the meta device."""
        return PictureDecoder(blank_pictures(self.checkpoints / PICTURES))

    def scenarios(self, given: int, num_latents: int, seed: int) -> list[Scenario]:
        """One scenario per image and drawn controls.

        Raises:
            UserError: when the dataset is missing, lacks a tensor or has latents of another size.
        """
        space = self.actions.space
        shapes = expected_shapes(self.checkpoint, given, space)
        found = self.drawn(shapes, space, num_latents, seed)
        return with_recorded(found, given, num_latents, seed, self.mix is None)

    def start_of(self, given: int, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """Given latents of a recording, see ``PreparedFiles.start``."""
        return self.start(video, expected_shapes(self.checkpoint, given, self.actions.space))

    def notes(self) -> tuple[str, ...]:
        """What the configuration says, for a look."""
        file = self.config_file
        return (f"{file}: {self.checkpoint.describe()}",) if file.is_file() else ()

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of network and autoencoder."""
        vae = self.checkpoints / PICTURES
        own = "the picture autoencoder, stabilityai/sd-vae-ft-mse"
        return (
            NeededFile(self.config_file, "the checkpoint's configuration"),
            NeededFile(self.network_file, "the Nano World Model", network, network_shapes),
            NeededFile(vae / FILE_NAME, own, decoder, picture_shapes),
            NeededFile(vae / "config.json", "its configuration"),
            *self.statistics_files(),
            NeededFile(self.data, "starts, made by 'worldcompass prepare'"),
        )

    def statistics_files(self) -> tuple[NeededFile, ...]:
        """The file of statistics, if the checkpoint reads normalised actions or the user names one."""
        what = "mean and deviation of the training actions; Nano's guide says how they are computed"
        needed = self.statistics is not None or self.checkpoint.normalised
        return (NeededFile(self._statistics, what),) if needed else ()

    @property
    def _statistics(self) -> Path:
        return self.statistics or self.checkpoints / STATISTICS_FILE

    @property
    def network_file(self) -> Path:
        """The file of the network's weights."""
        return self.transformer or self.checkpoints / MODEL_FILE


def with_recorded(
    scenarios: Sequence[Scenario], given: int, num_latents: int, seed: int, draws: bool
) -> list[Scenario]:
    """The same scenarios with recorded controls: their own up to the given latents, then drawn stretches of all.

    Args:
        scenarios: of a prepared dataset, with other drawn controls.
        given: latents that are given.
        num_latents: of every scenario.
        seed: of the stretches; they depend only on it and a scenario's name.
        draws: whether stretches replace the drawn controls.
    """
    recorded = {s.id.partition("/")[0]: _recorded(s.conditioning) for s in scenarios}
    pool = [values[1:] for values in recorded.values() if len(values) > 1]
    found = []
    for scenario in scenarios:
        own, later = recorded[scenario.id.partition("/")[0]], scenario.actions.controls.values_KTA
        if draws and pool:
            later = torch.cat([later[:1], *stretches(pool, num_latents - 1, seed, scenario.id)])
        start = own[: min(given, len(own))]
        actions = ControlValues(torch.cat([start, later[len(start) : num_latents]]))
        found.append(replace(scenario, actions=actions))
    return found


def stretches(pool: Sequence[Tensor], needed: int, seed: int, name: str) -> list[Tensor]:
    """Random stretches of recorded controls, each (M, T, A), ``needed`` latents together."""
    generator, found = generator_for(seed, "recorded", name), list[Tensor]()
    while needed > 0:
        values = pool[int(torch.randint(len(pool), (), generator=generator))]
        first = int(torch.randint(max(1, len(values) - needed + 1), (), generator=generator))
        found.append(values[first : first + needed])
        needed -= len(found[-1])
    return found


def _recorded(conditioning: Mapping[str, Tensor] | None) -> Tensor:
    assert conditioning is not None
    return conditioning[CONTROLS]


@dataclass(frozen=True)
class StandIns(RandomStandIns):
    """Random weights, starts and controls, with ``Colours`` as the autoencoder."""

    checkpoint: Checkpoint = TINY_CHECKPOINT

    @property
    def actions(self) -> NanoActions:
        """The controls, from -1 to 1."""
        return actions_of(self.checkpoint.setting_size, self.checkpoint.per_latent, normalised=False)

    @property
    def config_file(self) -> None:
        """No file."""
        return None

    def decoder(self, device: str) -> Pictures:
        """An autoencoder without weights."""
        return self.blank_decoder()

    def blank_decoder(self) -> Pictures:
        """The same autoencoder."""
        return Colours(self.pixels_per_cell)

    def scenarios(self, given: int, num_latents: int, seed: int) -> list[Scenario]:
        """Random starts with drawn controls."""
        return self.drawn(self.actions.space, num_latents, seed, partial(self._start, given))

    def start_of(self, given: int, video: Path) -> tuple[Mapping[str, Tensor], str]:
        """A random start; see ``OfficialFiles``."""
        return self.start(video, partial(self._start, given))

    def _start(self, given: int, generator: torch.Generator) -> dict[str, Tensor]:
        network = self.checkpoint.network
        shape = (network.latent_channels, given, network.latent_size, network.latent_size)
        return {START: torch.randn(shape, generator=generator)}

    def statistics_files(self) -> tuple[NeededFile, ...]:
        """No files."""
        return ()
