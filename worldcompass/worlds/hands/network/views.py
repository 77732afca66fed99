"""What a chunk shows of its past: the empty table, and all parts where the last latent has them.

Nothing of the last picture itself is taken over: what it has of smoke or noise ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.worlds.hands.facts import LIMIT_HIGH, LIMIT_LOW, NOMINAL, THINGS
from worldcompass.worlds.hands.network.gripper import cut_gripper
from worldcompass.worlds.hands.network.layers import Where, laid, moved
from worldcompass.worlds.hands.network.places import places_of
from worldcompass.worlds.hands.network.seer import Apart
from worldcompass.worlds.hands.network.shadows import reference, shadows_of
from worldcompass.worlds.hands.network.state import NUMBERS, State
from worldcompass.worlds.hands.outlines import PARTS

SHOWN = 4 * 3 + len(PARTS)
"""Planes that the network's stem sees: all parts as they are, the gripper moved as commanded, the last picture, the
empty table; shares of the parts as they are."""
MARGIN = 5  # pixels across, by which what covers the table is taken to be larger
LEAST_SHADOW = 0.01  # of a shadow that changes the table
CUT = 4 * len(THINGS)  # planes of what was cut out
TOLD = NUMBERS + 6 * len(THINGS)


@dataclass(frozen=True)
class Parts:
    """What a video's pictures are put together from."""

    table_N3hw: Tensor
    """The empty table."""
    cut_NT4hw: Tensor
    """Things as the start image shows them, see ``layers.cut_out``."""
    first_NT3: Tensor
    """Where their middles were then."""
    axes_NT3: Tensor
    """Where their axes pointed."""

    def layers(self, state: State) -> Tensor:
        """All ``PARTS`` where they are now; (N, 7, 4, h, w)."""
        now = Where.of(*places_of(state)).each((slice(None), slice(0, len(THINGS))))
        placed = moved(self.cut_NT4hw, Where.of(self.first_NT3, self.axes_NT3), now)
        placed = placed * state.here_T[..., None, None, None]
        return torch.cat([placed, moved(cut_gripper().to(placed)[None], *_gripper_between(state))], 1)

    def picture(self, state: State, layers_NL4hw: Tensor, dark_N1hw: Tensor) -> Tensor:
        """The table under its shadows, and on it all parts, the farthest first; (N, 3, h, w)."""
        return laid(self.table_N3hw * (1 - dark_N1hw), layers_NL4hw, by_distance(state))

    def pick(self, rows: Tensor) -> Parts:
        """Some of the rows, or some many times."""
        return Parts(self.table_N3hw[rows], self.cut_NT4hw[rows], self.first_NT3[rows], self.axes_NT3[rows])


def bare_table(pictures_N3hw: Tensor, apart: Apart) -> Tensor:
    """The empty table (N, 3, h, w): the picture's own pixels, and what was seen in it where something is on them.

    Unseen patterns stay as they are so, except under things and shadows.
    """
    gripper = moved(cut_gripper().to(pictures_N3hw)[None], *_gripper_between(apart.state))[:, :, 3]
    covers = torch.cat([apart.outlines_NLhw, gripper, (shadows_of(apart.state) > LEAST_SHADOW).float()], 1)
    covered = functional.max_pool2d(
        1 - (1 - covers.clamp(0, 1)).prod(1, keepdim=True), MARGIN, 1, MARGIN // 2
    )
    return torch.lerp(pictures_N3hw, apart.table_N3hw, covered)


def _gripper_between(state: State) -> tuple[Where, Where]:
    """Where the gripper's parts were cut out, and where they are."""
    first = Where.of(*places_of(reference())).each((slice(None), slice(len(THINGS), None)))
    now = Where.of(*places_of(state)).each((slice(None), slice(len(THINGS), None)))
    return Where(*(x.to(now.depth) for x in vars(first).values())), now


def by_distance(state: State) -> Tensor:
    """``PARTS`` from the farthest to the nearest; int64 (N, 7)."""
    return Where.of(places_of(state)[0]).depth.argsort(1, descending=True)


@dataclass(frozen=True)
class Seen:
    """The planes of views (N, D, h, w) by name."""

    parts: Parts
    state: State
    """Of the last latent."""

    @staticmethod
    def of(planes_NDhw: Tensor) -> Seen:
        """Take them apart again."""
        shown, cut, told = planes_NDhw.split((SHOWN, CUT, 1), 1)
        numbers, first = told.flatten(1)[:, :TOLD].split((NUMBERS, 6 * len(THINGS)), 1)
        middles, axes = first.unflatten(1, (len(THINGS), 6)).split(3, 2)
        return Seen(Parts(shown[:, 9:12], cut.unflatten(1, (-1, 4)), middles, axes), State.of(numbers))


def commanded(grip_N4: Tensor, summed_N4: Tensor) -> Tensor:
    """Where the gripper would be after commands that it obeys, within its range."""
    low, high = (grip_N4.new_tensor(limit) for limit in (LIMIT_LOW, LIMIT_HIGH))
    return (grip_N4 + summed_N4 * grip_N4.new_tensor(NOMINAL)).clamp(low, high)


def views_after(last_B3hw: Tensor, parts: Parts, state: State, summed_BK4: Tensor) -> Tensor:
    """All planes for each of K latents, (B, D, K, h, w); ``Seen`` says which.

    Args:
        last_B3hw: the last finished picture.
        parts: of its video.
        state: of its latent.
        summed_BK4: controls since then, added up.
    """
    count, size = summed_BK4.shape[1], last_B3hw.shape[2:]
    layers, dark = parts.layers(state), shadows_of(state)
    now = parts.picture(state, layers, dark)
    rows = torch.arange(len(last_B3hw), device=last_B3hw.device).repeat_interleave(count)
    ahead = replace(state.each(rows), grip_4=commanded(state.grip_4[rows], summed_BK4.flatten(0, 1)))
    own = parts.pick(rows)
    then = own.picture(ahead, own.layers(ahead), shadows_of(ahead)).unflatten(0, (-1, count))
    told = last_B3hw.new_zeros(len(last_B3hw), size[0] * size[1])
    told[:, :NUMBERS] = state.numbers()
    told[:, NUMBERS:TOLD] = torch.cat([parts.first_NT3, parts.axes_NT3], 2).flatten(1)
    rest = [
        last_B3hw,
        parts.table_N3hw,
        layers[:, :, 3],
        parts.cut_NT4hw.flatten(1, 2),
        told.view(-1, 1, *size),
    ]
    now, *rest = (x[:, None].expand(-1, count, -1, -1, -1) for x in (now, *rest))
    return torch.cat([now, then, *rest], 2).transpose(1, 2)
