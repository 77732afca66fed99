"""The Hands world with its second network: what a table holds is cut out once, and moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worldcompass.types import Actions, ControlValues
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.network.transformer import rotary_table
from worldcompass.worlds.hands.parts.autoencoder import CODE, PartsAutoencoder, PartsLook
from worldcompass.worlds.hands.parts.layers import Where, cut_out
from worldcompass.worlds.hands.parts.seer import Apart
from worldcompass.worlds.hands.parts.transformer import PartsTransformer
from worldcompass.worlds.hands.parts.views import Parts, bare_table, views_after
from worldcompass.worlds.hands.world import SPEC, command_of, summed
from worldcompass.worlds.small.autoencoder import Look
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.transformer import ChunkTransformer, Command, Rotary
from worldcompass.worlds.small.weights import WeightFiles
from worldcompass.worlds.small.world import SmallWorld


class PartsWorld(SmallWorld[PartsAutoencoder]):
    """Implements ``WorldModel[SmallContext]``; views show all parts where the last picture has them."""

    spec = replace(SPEC, latent_shape=CODE.latent_shape)

    def __init__(self, autoencoder: PartsAutoencoder, net: ChunkTransformer) -> None:
        super().__init__(autoencoder, net)
        self._apart: tuple[Tensor, Apart] | None = None

    def command(self, last: Actions, actions: Actions) -> Command:
        """See ``SmallWorld`` and ``command_of``."""
        return command_of(actions)

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """See ``SmallWorld`` and ``views_after``."""
        assert isinstance(look, PartsLook)
        start = look if older is None else self.autoencoder.look(older[0][:, :, 0])
        apart, first = self._taken_apart(start.picture), start.state
        distance = Where.of(first.middle_T3).depth
        cut = cut_out(apart.things_N3hw, apart.outlines_NLhw[:, : len(THINGS)], distance)
        parts = Parts(apart.table_N3hw, cut, first.middle_T3, first.up_T3)
        return views_after(look.picture.clamp(0, 1), parts, look.state, summed(actions))

    @torch.no_grad()
    def _taken_apart(self, pictures_P3hw: Tensor) -> Apart:
        """Start images. In inference mode those of the last call are kept: every chunk of a video asks for them."""
        played = pictures_P3hw.is_inference()
        known = self._apart if played else None
        if known is not None and known[0].shape == pictures_P3hw.shape and known[0].equal(pictures_P3hw):
            return known[1]
        shown = pictures_P3hw.clamp(0, 1)
        apart = self.autoencoder.seer(shown)
        apart = replace(apart, table_N3hw=bare_table(shown, apart))
        self._apart = (pictures_P3hw, apart) if played else None
        return apart

    def rotary(self, positions_PK: Tensor, actions: Actions) -> Rotary:
        """See ``SmallWorld`` and ``rotary_table``."""
        return rotary_table(positions_PK)

    def weaken(self, context: SmallContext) -> SmallContext:
        """See ``Guidable``: as if the gripper rested, in the command and in the views."""
        attended = context.attended
        assert attended is not None
        still = attended.seen_PDKyx.new_zeros(context.num_pasts, len(attended.given_K), 1, len(ACTIONS.axes))
        rest = ControlValues(still)
        seen = self.views(self._look(context.last_PCHW), context.last, context.older(), rest)
        command = self.command(context.last, rest)
        return replace(context, attended=replace(attended, command=command, seen_PDKyx=seen))


WEIGHTS = WeightFiles("hands_parts", "2")


def load_parts_world(folder: Path, device: str | torch.device = "cpu") -> PartsWorld:
    """The world with the weights of a folder.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder = PartsAutoencoder()
    net = PartsTransformer(autoencoder)
    WEIGHTS.load(folder, autoencoder, net)
    return PartsWorld(autoencoder.to(device), net.to(device))
