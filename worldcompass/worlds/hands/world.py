"""The embedded world model of Hands: a small world whose camera stands still while four controls move a gripper."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.noise import ShiftedLevels
from worldcompass.types import Actions, ControlValues
from worldcompass.world import WorldSpec
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.facts import FPS, FRAME_SIZE, FRAMES_PER_LATENT
from worldcompass.worlds.hands.network.autoencoder import CODE, HandsAutoencoder
from worldcompass.worlds.hands.network.transformer import HandsTransformer, rotary_table
from worldcompass.worlds.hands.network.views import VIEWS, plate_indices, plate_of, views_after
from worldcompass.worlds.small.autoencoder import Look
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.transformer import Command, Rotary
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld

SPEC = WorldSpec(
    name="hands",
    latent_shape=CODE.latent_shape,
    chunk_lengths=(4, 1),
    frames_per_latent=FRAMES_PER_LATENT,
    fps=FPS,
    frame_size=FRAME_SIZE,
    schedule=ShiftedLevels(shift=2.0, num_steps=2),
    actions=ACTIONS,
    batches_pasts=True,
)
AGE_UNIT = 4  # latents since the last finished one that count as 1 in a command
SUM_UNIT = 2  # controls in sum that do


class HandsWorld(SmallWorld[HandsAutoencoder]):
    """Implements ``WorldModel[SmallContext]``; views are earlier pictures, shifted as commanded."""

    spec = SPEC

    def command(self, last: Actions, actions: Actions) -> Command:
        """See ``SmallWorld`` and ``command_of``."""
        return command_of(actions)

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """See ``SmallWorld`` and ``views_after``."""
        shown = look.picture.clamp(0, 1)
        past = shown[:, None]
        if older is not None:
            latents = older[0][:, :, plate_indices(older[0].shape[2])].transpose(1, 2)
            pictures = self.autoencoder.pictures(latents.flatten(0, 1)).clamp(0, 1)
            past = torch.cat([pictures.unflatten(0, latents.shape[:2]), past], 1)
        return views_after(shown, past[:, 0], plate_of(past), summed(actions))

    def rotary(self, positions_PK: Tensor, actions: Actions) -> Rotary:
        """See ``SmallWorld`` and ``rotary_table``."""
        return rotary_table(positions_PK)

    def weaken(self, context: SmallContext) -> SmallContext:
        """See ``Guidable``: as if the gripper rested, in the command and in the views."""
        attended = context.attended
        assert attended is not None
        views = attended.seen_PDKyx.unflatten(1, (len(VIEWS), 3))[..., 0, :, :]
        rest = ControlValues(views.new_zeros(context.num_pasts, len(attended.given_K), 1, len(ACTIONS.axes)))
        still = views_after(views[:, 0], views[:, 1], views[:, 2], rest.flat_KA)
        command = self.command(context.last, rest)
        return replace(context, attended=replace(attended, command=command, seen_PDKyx=still))


def command_of(actions: Actions) -> Command:
    """The controls of each latent of a chunk, their sum since the last picture, and its age."""
    values = actions.controls.flat_KA
    age = torch.arange(1, len(actions) + 1, device=values.device)[:, None] / AGE_UNIT
    return (torch.cat([values, summed(actions) / SUM_UNIT, age.expand_as(values)], -1),)


def summed(actions: Actions) -> Tensor:
    """Controls added up from a chunk's first latent to each one, (P, K, 4)."""
    return actions.controls.flat_KA.cumsum(-2)


def shipped_weights() -> Path:
    """The folder of weights inside the package."""
    return Path(str(resources.files("worldcompass.worlds.hands") / "weights"))


WEIGHTS = WeightFiles("hands", "2", shipped_weights())


def load_hands_world(folder: Path | None = None, device: str | torch.device = "cpu") -> HandsWorld:
    """The embedded world with the weights of the package, or those of a folder.

    Post-training leaves the autoencoder alone: a folder without one takes the package's.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder = HandsAutoencoder()
    net = HandsTransformer(autoencoder.code)
    WEIGHTS.load(folder, autoencoder, net)
    return HandsWorld(autoencoder.to(device), net.to(device))
