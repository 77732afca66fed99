"""Sources of a WorldPlay recipe's parts: official files with a prepared dataset, or random stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldcompass.actions import CameraActions
from worldcompass.errors import UserError
from worldcompass.runs.requirements import INDEX, NeededFile, visible
from worldcompass.seeding import generator_for
from worldcompass.types import CameraMoves, Scenario
from worldcompass.world import WorldModel
from worldcompass.worlds.open.decoder import Decoder, VideoDecoder
from worldcompass.worlds.open.poses import MOTION, THRESHOLDS
from worldcompass.worlds.open.recipe import Shapes
from worldcompass.worlds.open.sources import BlendStandIns, VideoFiles
from worldcompass.worlds.open.starts import prepared_scenarios
from worldcompass.worlds.open.tiny import Blend
from worldcompass.worlds.open.weights import FILE_NAME, GENERATOR_FILE, file_in, load_weights, shapes_in_file
from worldcompass.worlds.worldplay.config import Config5B, Config8B, VaeConfig5B, VaeConfig8B, expected_shapes
from worldcompass.worlds.worldplay.decoder import load_decoder_5b, load_decoder_8b
from worldcompass.worlds.worldplay.pose_files import CONVENTION, read_pose_list
from worldcompass.worlds.worldplay.tiny import conditioning_5b, conditioning_8b
from worldcompass.worlds.worldplay.trajectories import random_trajectory
from worldcompass.worlds.worldplay.transformer_5b import Caption
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B
from worldcompass.worlds.worldplay.vae_5b import Autoencoder5B
from worldcompass.worlds.worldplay.vae_8b import Autoencoder8B
from worldcompass.worlds.worldplay.world import WorldPlay, WorldPlayContext, begun_context

# Largest numbers of tokens: the 8B's image, quoted text and caption without padding, and the 5B's caption.
LONGEST_TEXT = 729 + 256 + 1000, 512

SHOWN_POSES = 3  # trajectories that a run prints

# Where tencent/HY-WorldPlay keeps the weights to start from. The 5B's other file, in ``wan_transformer/``, is the
# video model without actions.
RELEASED_8B, RELEASED_5B = f"ar_model/{FILE_NAME}", f"wan_distilled_model/{GENERATOR_FILE}"


@dataclass(frozen=True)
class OfficialFiles(VideoFiles):
    """Official checkpoints, a dataset from ``worldcompass prepare``, and trajectories."""

    checkpoints: Path
    """Folder with the released transformer (see ``released``) or a ``transformer/``, and with ``vae/``."""
    poses: Path | None = None
    """Folder of pose files, one per scenario in the order of their names, or one file with a list of trajectories;
    random trajectories when None."""
    mix: str | None = field(default=None, kw_only=True)
    """Motions of random trajectories, see ``worlds.trajectories.parse_mix``; the method's mix when None."""
    load_decoder: Callable[[Path, str, torch.dtype], Decoder] = load_decoder_8b
    """Loads the video decoder from its folder to a device: ``load_decoder_8b`` or ``load_decoder_5b``."""
    transformer: Path | None = None
    """Another file or folder of the transformer, such as ``ar_rl_model`` or a ``.pt`` of WorldPlay's training."""
    released: str = RELEASED_8B
    """Place of the transformer in ``checkpoints`` as it is downloaded; a folder ``transformer/`` goes before it."""

    def fill(self, net: nn.Module, dtype: torch.dtype, device: str) -> None:
        """Load the official weights; see ``load_weights``."""
        load_weights(net, self.network_file, dtype, device)

    def decoder(self, device: str) -> Decoder:
        """The video decoder with its official weights."""
        return self.load_decoder(self.checkpoints / "vae", device, self.decoder_dtype)

    def blank_decoder(self, network: Config8B | Config5B) -> Decoder:
        """The official video decoder on the meta device, even if ``load_decoder`` loads another one.

        Raises:
            UserError: when its configuration file is of another decoder.
        """
        file = self.checkpoints / "vae" / "config.json"
        known = self._decoder_is_official and file.is_file()
        with torch.device("meta"):
            if isinstance(network, Config8B):
                net = Autoencoder8B(VaeConfig8B.from_json(file) if known else None)
            else:
                net = Autoencoder5B(VaeConfig5B.from_json(file) if known else None)
        return VideoDecoder(net.to(self.decoder_dtype))

    @property
    def network_file(self) -> Path:
        """The file of the network's weights."""
        if self.transformer is not None:
            return self.transformer if self.transformer.suffix else file_in(self.transformer)
        own = file_in(self.checkpoints / "transformer")
        present = own.exists() or own.with_name(own.name + INDEX).exists()
        return own if present else self.checkpoints / self.released

    @property
    def _decoder_is_official(self) -> bool:
        return self.load_decoder in (load_decoder_8b, load_decoder_5b)

    def scenarios(
        self, network: Config8B | Config5B, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """One scenario per image and trajectory.

        Raises:
            UserError: when the dataset is missing, lacks a tensor or has latents of another size, or when pose
                files are too few or too short.
        """
        shapes = expected_shapes(network, latent_size)
        return prepared_scenarios(
            self.data,
            shapes,
            self.trajectories_per_image,
            lambda names: self._trajectories(names, num_latents, seed),
        )

    def start_of(
        self, video: Path, network: Config8B | Config5B, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """Conditioning and caption of a recording, see ``PreparedFiles.start``."""
        return self.start(video, expected_shapes(network, latent_size))

    def notes(self) -> tuple[str, ...]:
        """What the first pose files mean, for a look: poses of other axes are read without an error."""
        if self.poses is None or not self.poses.exists():
            return ()
        files = [self.poses] if self.poses.is_file() else visible(self.poses, "*.json")[:SHOWN_POSES]
        space = CameraActions(MOTION, THRESHOLDS)
        lines = [
            f"  {file}: {space.path(moves.labels_K.tolist()) or 'the camera stands still'}"
            for file in files
            for moves in read_pose_list(file, SHOWN_POSES)
        ]
        return ("trajectories as they are read:", *lines[:SHOWN_POSES], f"  {CONVENTION}")

    def begin(self, world: WorldModel[Any], pasts: int) -> WorldPlayContext:
        """Pasts with text of the maximum length."""
        return _begin_on_zeros(world, pasts, LONGEST_TEXT)

    def files(self, network: Shapes, decoder: Shapes) -> tuple[NeededFile, ...]:
        """Files that must exist before a run begins, with the expected tensors of transformer and autoencoder."""
        vae = "the base model's video autoencoder"
        return (
            NeededFile(self.network_file, "WorldPlay's transformer", network, shapes_in_file),
            NeededFile(
                self.checkpoints / "vae" / FILE_NAME, vae, decoder if self._decoder_is_official else None
            ),
            NeededFile(self.checkpoints / "vae" / "config.json", "its configuration"),
            NeededFile(self.data, "conditioning, made by 'worldcompass prepare'"),
            *(
                [NeededFile(self.poses, "pose files, made by 'worldcompass trajectories'")]
                if self.poses
                else []
            ),
        )

    def _trajectories(self, names: Sequence[str], num_latents: int, seed: int) -> list[CameraMoves]:
        if self.poses is None:
            seeds = [generator_for(seed, "trajectory", name).initial_seed() for name in names]
            try:
                return [random_trajectory(num_latents, (own,), mix=self.mix) for own in seeds]
            except ValueError as mistake:
                raise UserError(str(mistake)) from mistake
        files = [self.poses] if self.poses.is_file() else visible(self.poses, "*.json")[: len(names)]
        found = [(file, actions) for file in files for actions in read_pose_list(file, len(names))]
        if len(found) < len(names):
            raise UserError(
                f"{self.poses} holds {len(found)} trajectories, {len(names)} scenarios need one each: make more"
                " with 'worldcompass trajectories --count', or lower source.trajectories_per_image"
            )
        for file, actions in found:
            if len(actions) < num_latents:
                raise UserError(
                    f"{file} holds {len(actions)} poses, the last clip of the curriculum needs {num_latents}: make"
                    " longer ones with 'worldcompass trajectories --latents', or lower config.last_chunk"
                )
        return [actions.latents(0, num_latents) for _, actions in found[: len(names)]]


@dataclass(frozen=True)
class StandIns(BlendStandIns):
    """Random weights, conditioning and trajectories, with ``Blend`` as the decoder."""

    def blank_decoder(self, network: Config8B | Config5B) -> Decoder:
        """The same decoder."""
        return Blend(self.pixels_per_cell)

    def scenarios(
        self, network: Config8B | Config5B, latent_size: tuple[int, int], num_latents: int, seed: int
    ) -> list[Scenario]:
        """Random starts with one random trajectory each."""
        return [
            Scenario(
                f"stand-in-{i}",
                random_trajectory(num_latents, (seed, i)),
                conditioning=_random_start(network, latent_size, generator_for(seed, "stand-in", i)),
            )
            for i in range(self.num_scenarios)
        ]

    def start_of(
        self, video: Path, network: Config8B | Config5B, latent_size: tuple[int, int]
    ) -> tuple[Mapping[str, Tensor], str]:
        """A random start; see ``OfficialFiles``."""
        return self.start(video, partial(_random_start, network, latent_size))

    def begin(self, world: WorldModel[Any], pasts: int) -> WorldPlayContext:
        """Pasts with text of the scenarios' length."""
        return _begin_on_zeros(world, pasts, (10, 6))


def _random_start(
    network: Config8B | Config5B, latent_size: tuple[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    states = conditioning_8b if isinstance(network, Config8B) else conditioning_5b
    conditioning = states(network, generator)  # type: ignore[arg-type]
    conditioning["latent"] = torch.randn(network.latent_channels, *latent_size, generator=generator)
    return conditioning


def _begin_on_zeros(world: WorldModel[Any], pasts: int, num_tokens: tuple[int, int]) -> WorldPlayContext:
    """Pasts of blank text; the 8B's keys are made directly, as dropping padding would need the mask's values."""
    assert isinstance(world, WorldPlay)
    net = world.net
    if isinstance(net, Transformer8B):
        config, weight = net.config, net.cond_type_embedding.weight
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        shape = (1, config.num_heads, num_tokens[0], config.head)
        texts = [
            [
                tuple(torch.zeros(shape, dtype=dtype).expand(2, -1, -1, -1) for _ in "kv")
                for _ in net.double_blocks
            ]
            for _ in range(pasts)
        ]
    else:
        texts = [net(Caption(torch.zeros(num_tokens[1], net.config.text_width))) for _ in range(pasts)]
    starts = [torch.zeros(world.spec.latent_shape) for _ in range(pasts)]
    return begun_context([(text,) for text in texts], starts)
