"""The embedded world model of Doom: a small world whose camera moves through a place with depth."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from worldcompass.geometry import angles_from_rotation, level_motion
from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions
from worldcompass.ways import Walking
from worldcompass.world import WorldSpec
from worldcompass.worlds.doom.engine.facts import (
    ACTIONS,
    FPS,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    FRAMES_PER_LATENT,
    INTRINSICS,
    MAX_PITCH_DEG,
    MOTION,
    NOMINAL,
)
from worldcompass.worlds.doom.network.autoencoder import CODE, DoomAutoencoder, DoomLook
from worldcompass.worlds.doom.network.transformer import DoomTransformer, rotary_table
from worldcompass.worlds.small.autoencoder import Codec, Look
from worldcompass.worlds.small.transformer import Command, Rotary
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld

MEMORY_MOVE, MEMORY_TURN_DEG = 100.0, 45.0  # pose differences that count alike when choosing memory

SPEC = WorldSpec(
    name="doom",
    latent_shape=CODE.latent_shape,
    chunk_lengths=(4, 1),
    frames_per_latent=FRAMES_PER_LATENT,
    fps=FPS,
    frame_size=(FRAME_HEIGHT, FRAME_WIDTH),
    schedule=ShiftedLevels(shift=2.0, num_steps=8),
    actions=ACTIONS,
    batches_pasts=True,
    play=Walking(chunk_length=1, num_steps=4),
)


A = TypeVar("A", bound=Codec)


class CameraWorld(SmallWorld[A]):
    """A small world whose camera moves: commands, memory and attention follow its poses."""

    def command(self, last: Actions, actions: Actions) -> Command:
        """See ``SmallWorld``: the labels (P, K) and the motion (P, K, 5)."""
        return actions.cameras.labels_K, camera_motion(poses_of(last)[:, 0], poses_of(actions))

    def rotary(self, positions_PK: Tensor, actions: Actions) -> Rotary:
        """See ``SmallWorld`` and ``rotary_table``."""
        return rotary_table(positions_PK, poses_of(actions))

    def distance(self, past: Actions, target: Actions) -> Tensor:
        """See ``SmallWorld``."""
        return pose_distance(poses_of(past), poses_of(target)[:, 0])

    def starting(self, actions: Actions) -> Actions:
        """See ``SmallWorld``."""
        labels = actions.cameras.labels_K.clone()
        labels[..., 0] = 0
        return replace(actions.cameras, labels_K=labels)


class DoomWorld(CameraWorld[DoomAutoencoder]):
    """Implements ``WorldModel[SmallContext]``; views follow the camera's poses."""

    spec = SPEC

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """See ``SmallWorld`` and ``carried_along``."""
        assert isinstance(look, DoomLook)
        past = older and (older[0], poses_of(older[1]))
        return carried_along(self.autoencoder, look, poses_of(last)[:, 0], past, poses_of(actions))


def poses_of(actions: Actions) -> Tensor:
    """``world_from_camera`` (..., K, 4, 4) of camera actions."""
    return actions.cameras.world_from_camera_K44


def camera_motion(last_pose_P44: Tensor, world_from_camera_PK44: Tensor) -> Tensor:
    """Motion of each latent in nominal units with its pitch in units of the largest; (P, K, 5)."""
    previous = torch.cat([last_pose_P44[:, None], world_from_camera_PK44[:, :-1]], 1)
    motion = level_motion(previous, world_from_camera_PK44) / world_from_camera_PK44.new_tensor(NOMINAL)
    _, pitch = angles_from_rotation(world_from_camera_PK44[..., :3, :3])
    return torch.cat([motion, pitch[..., None] / MAX_PITCH_DEG], -1)


def motion_from(last_pose_P44: Tensor, world_from_camera_PK44: Tensor) -> tuple[Tensor, Tensor]:
    """Motion from the last pose to each of a chunk's (P, K, 4), and the last pitch (P,), in nominal units."""
    last = last_pose_P44[:, None].expand_as(world_from_camera_PK44)
    motion = level_motion(last, world_from_camera_PK44) / world_from_camera_PK44.new_tensor(NOMINAL)
    _, pitch = angles_from_rotation(last_pose_P44[:, :3, :3])
    return motion, pitch / MOTION.pitch_deg


def carried_along(
    autoencoder: DoomAutoencoder,
    look: DoomLook,
    last_pose_P44: Tensor,
    older: tuple[Tensor, Tensor] | None,
    poses_PK44: Tensor,
) -> Tensor:
    """What a chunk's cameras see of the last latent and, where that shows nothing, of an older one.

    Args:
        autoencoder: of the world.
        look: of the last latent.
        last_pose_P44: its pose.
        older: latents (P, C, M, H, W) and poses of the past before it; the view nearest to the chunk's end serves.
        poses_PK44: of the chunk.

    Returns:
        See ``DoomAutoencoder.seen_from``; (P, C + 1, K, H, W).
    """
    pasts = [(look, *motion_from(last_pose_P44, poses_PK44))]
    if older is not None:
        latents, poses = older
        rows = torch.arange(len(poses), device=poses.device)
        best = pose_distance(poses, poses_PK44[:, -1]).argmin(1)
        memory = autoencoder.look(latents[rows, :, best])
        pasts.append((memory, *motion_from(poses[rows, best], poses_PK44)))
    return autoencoder.seen_from(pasts)


def pose_distance(poses_PM44: Tensor, target_P44: Tensor) -> Tensor:
    """How far views differ in position and yaw, in place of field-of-view overlap; (P, M)."""
    motion = level_motion(target_P44[:, None].expand_as(poses_PM44), poses_PM44)
    return motion[..., :2].norm(dim=-1) / MEMORY_MOVE + motion[..., 2].abs() / MEMORY_TURN_DEG


def intrinsics() -> Tensor:
    """The engine's pinhole, (4,): fx, fy, cx, cy over width and height."""
    return torch.tensor(INTRINSICS)


def shipped_weights() -> Path:
    """The folder of weights inside the package."""
    return Path(str(resources.files("worldcompass.worlds.doom") / "weights"))


WEIGHTS = WeightFiles("doom", "4", shipped_weights())


def load_doom_world(folder: Path | None = None, device: str | torch.device = "cpu") -> DoomWorld:
    """The embedded world with the weights of the package, or those of a folder.

    Post-training leaves the autoencoder alone: a folder without one takes the package's.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder, net = DoomAutoencoder(), DoomTransformer()
    WEIGHTS.load(folder, autoencoder, net)
    return DoomWorld(autoencoder.to(device), net.to(device))
