"""What a chunk shows of its past: the empty table, and all parts where the last picture has them.

Nothing of the last picture itself is taken over: what it has of smoke or noise ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.network.views import motions
from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.hands.parts.gripper import cut_gripper, gripper_outlines
from worldcompass.worlds.hands.parts.layers import by_depth, laid, lean_of, middles, shifted

WAYS = ("still", "moved", "left", "right", "flat")
"""How a part may move with a command: not, like palm or fingers, or sliding along on the table."""
SHOWN = 4 * 3 + len(PARTS)
"""Planes that the network's stem sees: all parts as they are, the gripper moved as commanded, the last picture, the
empty table; outlines."""
CUT = 4 * len(THINGS)  # planes of what was cut out
NUMBERS = 2 * len(PARTS) + 2 * len(WAYS)


def ways_after(summed_BK4: Tensor) -> Tensor:
    """Pixels (right, down) of each of ``WAYS``; (B, K, 5, 2).

    Args:
        summed_BK4: see ``motions``.
    """
    moved = motions(summed_BK4)
    return torch.cat([torch.zeros_like(moved[:, :, :1]), moved], 2)


@dataclass(frozen=True)
class Seen:
    """The planes of views (N, D, h, w) by name."""

    table_N3hw: Tensor
    outlines_NLhw: Tensor
    """Of the last picture."""
    cut_NT4hw: Tensor
    """Things, see ``layers.cut_out``."""
    offsets_NL2: Tensor
    """See ``layers.offsets``, of the last picture."""
    ways_NW2: Tensor
    """See ``ways_after``."""

    @staticmethod
    def of(planes_NDhw: Tensor) -> Seen:
        """Take them apart again."""
        shown, cut, told = planes_NDhw.split((SHOWN, CUT, 1), 1)
        numbers = told.flatten(1)[:, :NUMBERS].unflatten(1, (-1, 2))
        return Seen(
            shown[:, 9:12],
            shown[:, 12:],
            cut.unflatten(1, (len(THINGS), 4)),
            numbers[:, : len(PARTS)],
            numbers[:, len(PARTS) :],
        )


def moved_gripper(offsets_NG2: Tensor) -> tuple[Tensor, Tensor]:
    """The gripper's parts after they were moved, see ``layers.cut_out`` (N, G, 4, h, w), and outlines (N, G, h, w).

    The arm leans with the place of the palm, as all that is upright does.
    """
    count, whole = len(offsets_NG2), gripper_outlines().to(offsets_NG2)
    layers = torch.cat([cut_gripper().to(offsets_NG2), whole[:, None]], 1).expand(count, -1, -1, -1, -1)
    middle, _ = middles(whole[None])
    lean = torch.zeros_like(offsets_NG2[..., 0])
    lean[:, 0] = lean_of(middle[:, 0] + offsets_NG2[:, 0])
    moved = shifted(layers.flatten(0, 1), offsets_NG2.flatten(0, 1), lean.flatten()).clamp(0, 1)
    moved = moved.unflatten(0, (count, -1))
    return moved[:, :, :4], moved[:, :, 4]


FINGERS_FIRST = (1, 2, 0)  # of ``GRIPPER``: the palm is above them


def drawn(
    ground_N3hw: Tensor,
    things_NT4hw: Tensor,
    gripper_NG4hw: Tensor,
    order_NT: Tensor,
    front_N1hw: Tensor | float,
) -> Tensor:
    """A picture of all parts: the gripper, things in their order, and the gripper again where it is in front."""
    gripper = gripper_NG4hw[:, list(FINGERS_FIRST)]
    behind = laid(laid(ground_N3hw, gripper), things_NT4hw, order_NT)
    return torch.lerp(behind, laid(behind, gripper), front_N1hw)


def views_after(
    last_B3hw: Tensor,
    outlines_BLhw: Tensor,
    table_B3hw: Tensor,
    cut_BT4hw: Tensor,
    offsets_BL2: Tensor,
    summed_BK4: Tensor,
) -> Tensor:
    """All planes for each of K latents, (B, D, K, h, w); ``Seen`` says which.

    Args:
        last_B3hw: the last finished picture.
        outlines_BLhw: of its parts.
        table_B3hw: the empty table.
        cut_BT4hw: things, see ``layers.cut_out``.
        offsets_BL2: see ``layers.offsets``.
        summed_BK4: see ``motions``.
    """
    count, size, things = summed_BK4.shape[1], last_B3hw.shape[2:], len(THINGS)
    ways = ways_after(summed_BK4)
    own = offsets_BL2[:, :things]
    still = shifted(cut_BT4hw.flatten(0, 1), own.flatten(0, 1)).clamp(0, 1).view_as(cut_BT4hw)
    order = by_depth(cut_BT4hw, own)
    ground = laid(table_B3hw, still, order)
    now = laid(ground, moved_gripper(offsets_BL2[:, things:])[0][:, list(FINGERS_FIRST)])
    ahead = (offsets_BL2[:, None, things:] + ways[:, :, 1:4]).flatten(0, 1)
    below = ground[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
    moved = laid(below, moved_gripper(ahead)[0][:, list(FINGERS_FIRST)]).unflatten(0, (-1, count))
    rest = torch.cat([last_B3hw, table_B3hw, outlines_BLhw, cut_BT4hw.flatten(1, 2)], 1)
    numbers = torch.cat([offsets_BL2[:, None].expand(-1, count, -1, -1), ways], 2).flatten(2)
    told = last_B3hw.new_zeros(len(last_B3hw), count, 1, size[0] * size[1])
    told[:, :, 0, :NUMBERS] = numbers
    now, rest = (x[:, None].expand(-1, count, -1, -1, -1) for x in (now, rest))
    return torch.cat([now, moved, rest, told.unflatten(3, size)], 2).transpose(1, 2)
