"""The transformer of the Doom world: commands are actions and motions, tokens lie where their cameras look.

A command is an action and the camera's motion, and the camera's pose enters attention: WorldPlay's dual action
representation. The rotary embedding of a token is made of its time and of the azimuth and elevation that it looks
at in the world, so a token that looked at the same thing before matches wherever the camera turned since. The views
are what the chunk's cameras would see of the last finished latent and of an older one, by their depth: what was
seen is carried along by geometry, and the network adds what was hidden and mends what was worn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldcompass.worlds.doom.engine.facts import INTRINSICS
from worldcompass.worlds.doom.network.autoencoder import CODE
from worldcompass.worlds.small.transformer import (
    ChunkTransformer,
    Command,
    Rotary,
    TransformerConfig,
    rotary_of,
)

# Two cells of one column to a token: turning moves the picture sideways mostly, so columns are kept apart.
CONFIG = TransformerConfig(CODE.latent_shape, seen=CODE.channels + 1, token=(2, 1), head=48)
NUM_MOTION = 5  # right, forward, yaw and pitch change in nominal units, and the pitch itself
# Rotary rates: whole numbers of periods per full turn for the angles, so that they wrap; a cell is 11 degrees wide.
AZIMUTH_RATES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
ELEVATION_RATES = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)
TIME_RATES = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015)


def rotary_table(positions_BK: Tensor, world_from_camera_BK44: Tensor) -> Rotary:
    """The rotary embedding of latents at these positions in time, with these cameras."""
    x, y = _directions(positions_BK.device)
    rays = torch.stack([x, y, torch.ones_like(x)], -1) / (1 + x * x + y * y).sqrt()[:, None]
    seen = torch.einsum("bkij,tj->bkti", world_from_camera_BK44[..., :3, :3].float(), rays)
    azimuth = torch.atan2(seen[..., 0], seen[..., 2])
    elevation = torch.asin(-seen[..., 1].clamp(-1, 1))
    time = positions_BK[..., None].expand_as(azimuth)
    return rotary_of((azimuth, AZIMUTH_RATES), (elevation, ELEVATION_RATES), (time, TIME_RATES))


def _directions(device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the tokens' centres look, right and down of a camera with focal length 1; (tokens,) each."""
    fx, fy, cx, cy = INTRINSICS
    rows, columns = CONFIG.grid
    down = ((torch.arange(rows, device=device) + 0.5) / rows - cy) / fy
    right = ((torch.arange(columns, device=device) + 0.5) / columns - cx) / fx
    y, x = torch.meshgrid(down, right, indexing="ij")
    return x.flatten(), y.flatten()


class CameraCommands(ChunkTransformer):
    """A command is the label (B, K) of each latent's action and its motion (B, K, 5), see ``camera_motion``."""

    def add_command(self) -> None:
        """See ``ChunkTransformer``."""
        size = self.config.condition
        self.translation = nn.Embedding(9, size)
        self.rotation = nn.Embedding(9, size)
        self.action = nn.Embedding(81, size)
        self.motion = nn.Sequential(nn.Linear(NUM_MOTION, size), nn.SiLU(), nn.Linear(size, size))
        for table in (self.translation, self.rotation):
            nn.init.normal_(table.weight, std=0.5)
        nn.init.zeros_(self.action.weight)

    def commanded(self, level_BKE: Tensor, command: Command) -> Tensor:
        """See ``ChunkTransformer``."""
        labels_BK, motion_BK5 = command
        action = self.translation(labels_BK // 9) + self.rotation(labels_BK % 9) + self.action(labels_BK)
        return level_BKE + action + self.motion(motion_BK5)


class DoomTransformer(CameraCommands):
    """Views are ``carried_along``."""

    def __init__(self, config: TransformerConfig = CONFIG) -> None:
        super().__init__(config)
