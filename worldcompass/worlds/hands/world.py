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
from worldcompass.worlds.hands.facts import FPS, FRAME_SIZE, FRAMES_PER_LATENT, THINGS
from worldcompass.worlds.hands.network.autoencoder import CODE, HandsAutoencoder, HandsLook
from worldcompass.worlds.hands.network.layers import Where, cut_out
from worldcompass.worlds.hands.network.seer import Apart
from worldcompass.worlds.hands.network.state import State
from worldcompass.worlds.hands.network.transformer import HandsTransformer, rotary_table
from worldcompass.worlds.hands.network.views import Parts, bare_table, views_after
from worldcompass.worlds.small.autoencoder import Look
from worldcompass.worlds.small.by_picture import ByPicture
from worldcompass.worlds.small.context import SmallContext
from worldcompass.worlds.small.transformer import ChunkTransformer, Command, Rotary
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
STATES = 4096  # pictures whose state is kept, 160 bytes each
STARTS = 128  # start images that are kept taken apart, 0.2 MB each


class HandsWorld(SmallWorld[HandsAutoencoder]):
    """Implements ``WorldModel[SmallContext]``; views show all parts where the last picture has them."""

    spec = SPEC
    temperature = 0.0  # a gripper that is told where to go doesn't tremble; candidates of a group do

    def __init__(self, autoencoder: HandsAutoencoder, net: ChunkTransformer) -> None:
        super().__init__(autoencoder, net)
        self._played: tuple[Tensor, Apart] | None = None
        self._state = ByPicture(lambda pictures: (self.autoencoder.seen(pictures),), STATES)
        self._apart = ByPicture(self._take_apart, STARTS)

    @torch.no_grad()
    def encode(self, frames_PF3hw: Tensor) -> Tensor:
        """See ``SmallWorld``; what was seen in each picture is kept."""
        ends = self.autoencoder.ends(frames_PF3hw.to(self.device).float() / 255)
        pictures = ends.flatten(0, 1)
        (numbers,) = self._state(pictures)
        return self.autoencoder.encode_seen(pictures, numbers).unflatten(0, ends.shape[:2]).transpose(1, 2)

    def command(self, last: Actions, actions: Actions) -> Command:
        """See ``SmallWorld`` and ``command_of``."""
        return command_of(actions)

    def views(
        self, look: Look, last: Actions, older: tuple[Tensor, Actions] | None, actions: Actions
    ) -> Tensor:
        """See ``SmallWorld`` and ``views_after``."""
        assert isinstance(look, HandsLook)
        start = look if older is None else self.autoencoder.look(older[0][:, :, 0])
        return views_after(look.picture.clamp(0, 1), self.parts(start), look.state, summed(actions))

    def parts(self, start: HandsLook) -> Parts:
        """What the pictures of videos that begin like this are put together from."""
        apart, first = self._taken_apart(start.picture), start.state
        distance = Where.of(first.middle_T3).depth
        cut = cut_out(apart.things_N3hw, apart.outlines_NLhw[:, : len(THINGS)], distance)
        return Parts(apart.table_N3hw, cut, first.middle_T3, first.up_T3)

    def _taken_apart(self, pictures_P3hw: Tensor) -> Apart:
        """Start images. In inference mode those of the last call are kept: every chunk of a video asks for them."""
        if not pictures_P3hw.is_inference():
            return _apart_of(self._apart(pictures_P3hw))
        known = self._played
        if known is not None and known[0].shape == pictures_P3hw.shape and known[0].equal(pictures_P3hw):
            return known[1]
        apart = _apart_of(self._take_apart(pictures_P3hw))
        self._played = pictures_P3hw, apart
        return apart

    @torch.no_grad()
    def _take_apart(self, pictures_P3hw: Tensor) -> tuple[Tensor, ...]:
        shown = pictures_P3hw.clamp(0, 1)
        apart = self.autoencoder.seer(shown)
        return bare_table(shown, apart), apart.things_N3hw, apart.logits_NLhw, apart.state.numbers()

    def rotary(self, positions_PK: Tensor, actions: Actions) -> Rotary:
        """See ``SmallWorld`` and ``rotary_table``."""
        return rotary_table(positions_PK)

    def heated(self, context: SmallContext, temperature: float) -> SmallContext:
        """See ``Tempered``: of where the gripper and the things go."""
        attended = context.attended
        assert attended is not None
        return replace(context, attended=replace(attended, temperature=temperature))

    def weaken(self, context: SmallContext) -> SmallContext:
        """See ``Guidable``: as if the gripper rested, in the command and in the views."""
        attended = context.attended
        assert attended is not None
        still = attended.seen_PDKyx.new_zeros(context.num_pasts, len(attended.given_K), 1, len(ACTIONS.axes))
        rest = ControlValues(still)
        seen = self.views(self._look(context.last_PCHW), context.last, context.older(), rest)
        command = self.command(context.last, rest)
        return replace(context, attended=replace(attended, command=command, seen_PDKyx=seen))


def _apart_of(found: tuple[Tensor, ...]) -> Apart:
    table, things, logits, numbers = found
    return Apart(table, things, logits, State.of(numbers))


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


WEIGHTS = WeightFiles("hands", "3", shipped_weights())


def load_hands_world(folder: Path | None = None, device: str | torch.device = "cpu") -> HandsWorld:
    """The embedded world with the weights of the package, or those of a folder.

    Post-training leaves the autoencoder alone: a folder without one takes the package's.

    Raises:
        UserError: when the files are missing, of another version or of another shape.
    """
    autoencoder = HandsAutoencoder()
    net = HandsTransformer(autoencoder)
    WEIGHTS.load(folder, autoencoder, net)
    return HandsWorld(autoencoder.to(device), net.to(device))
