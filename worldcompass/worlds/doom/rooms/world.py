"""The embedded world model of rooms: a camera walks through levels whose patterns suit the resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions
from worldcompass.worlds.doom.network.autoencoder import DoomLook
from worldcompass.worlds.doom.rooms.autoencoder import CODE, RoomsAutoencoder
from worldcompass.worlds.doom.rooms.transformer import RoomsTransformer
from worldcompass.worlds.doom.rooms.views import chosen_views, mixed_views
from worldcompass.worlds.doom.world import SPEC as DOOM_SPEC
from worldcompass.worlds.doom.world import CameraWorld, motion_from, poses_of
from worldcompass.worlds.small.autoencoder import Look
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.weights import WeightFiles

SPEC = replace(
    DOOM_SPEC,
    name="rooms",
    latent_shape=CODE.latent_shape,
    schedule=ShiftedLevels(shift=2.0, num_steps=4),
    play=None,
)


class RoomsWorld(CameraWorld[RoomsAutoencoder]):
    """Implements ``WorldModel[SmallContext]``; views are earlier pictures as the coming cameras see them."""

    spec = SPEC

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """See ``SmallWorld`` and ``mixed_views``."""
        assert isinstance(look, DoomLook)
        poses = poses_of(actions)
        pasts = [(look, *motion_from(poses_of(last)[:, 0], poses))]
        if older is not None:
            latents, older_poses = older[0], poses_of(older[1])
            rows = torch.arange(len(older_poses), device=older_poses.device)
            for chosen in chosen_views(older_poses, poses[:, -1]):
                seen = self.autoencoder.look(latents[rows, :, chosen])
                pasts.append((seen, *motion_from(older_poses[rows, chosen], poses)))
        return mixed_views(pasts)

    def weaken(self, context: SmallContext) -> SmallContext:
        """See ``Guidable``: as if the camera rested, in the command; the views stay."""
        attended = context.attended
        assert attended is not None
        labels, motion = attended.command
        rest = (torch.zeros_like(labels), torch.zeros_like(motion))
        return replace(context, attended=replace(attended, command=rest))


WEIGHTS = WeightFiles("rooms", "2", None)


def load_rooms_world(folder: Path, device: str | torch.device = "cpu") -> RoomsWorld:
    """The world with the weights of a folder.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder = RoomsAutoencoder()
    net = RoomsTransformer(autoencoder.code)
    WEIGHTS.load(folder, autoencoder, net)
    return RoomsWorld(autoencoder.to(device), net.to(device))
