"""Rewards for things: they stay what they are, stay where nothing touches them, and come along when held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldcompass.rewards.abstain import abstain
from worldcompass.types import Group, Scores
from worldcompass.worlds.hands.facts import (
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT,
    BOTTLE_RADIUS,
    CUP_HEIGHT,
    CUP_RADIUS,
    HANDLE_REACH,
    NOMINAL,
)
from worldcompass.worlds.hands.rewards.looking import CALM, PRESENT, Look, look_at, reader_or_shipped

if TYPE_CHECKING:
    from worldcompass.worlds.hands.critics.reader import SceneReader, Seen

REACH = 0.06  # metres around the gripper within which a thing may be touched
ABOVE = 0.03  # metres over a thing's top at which the finger tips no longer touch it
CHAIN = 0.17  # metres between the middles of two things that may touch each other
STILL = 1.0  # pixels by which a thing that stays may seem to move: the deviation of the kernel
LIFTED = 0.03  # metres above its resting height at which a thing is lifted
HELD = 0.05  # metres between the gripper and a held thing's middle in x and y, with room for the cup's handle
SLIP = 0.02  # metres by which a held thing may move in the hand over a latent: the deviation of the kernel
RADIUS = torch.tensor([CUP_RADIUS + HANDLE_REACH / 2, BALL_RADIUS, BLOCK_HALF * 1.2, BOTTLE_RADIUS])
RESTING = torch.tensor([CUP_HEIGHT / 2, BALL_RADIUS, BLOCK_HALF, BOTTLE_HEIGHT / 2])
"""Height of each standing thing's middle."""


class Permanence:
    """Nothing appears, vanishes, or changes its colour or kind since the video's first frame; 0 to 1.

    The mean over the scene's things of how much of each is there in its own colour, times what is left after each
    kind's surplus. Things that the palm hides count as missing in all candidates alike.
    """

    name = "permanence"

    def __init__(self, reader: SceneReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        self.reader = reader_or_shipped(reader)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstain when the start shows no thing, or nothing but the start is shown."""
        look = look_at(self.reader, group)
        if look is None or not bool((look.start.there_NT > PRESENT).any()):
            return abstain(group)
        return Scores(permanence_of(look), torch.ones(len(group.frames_GF3hw), dtype=torch.bool))


def permanence_of(look: Look) -> Tensor:
    """See ``Permanence``; (G,)."""
    had_T = look.start.there_NT > PRESENT
    kept_GT = look.there_GLT[:, look.before :].mean(1)
    ends = look.ends.pick(slice(look.before, None), 1)
    surplus_GT = (ends.more_NT + torch.where(had_T, 0.0, ends.there_NT)).amax(1).clamp(0, 1)
    return kept_GT[:, had_T].mean(1) * (1 - surplus_GT).prod(1)


class Passivity:
    """What neither the gripper nor another moving thing can have touched stays where it was; 0 to 1.

    A thing counts in a latent while it, and things that it leans on, were out of the gripper's reach for three
    latents; in a blank picture nothing is within reach. It scores by how far it moves in the picture, and by how
    much of it is there.
    """

    name = "passivity"

    def __init__(self, reader: SceneReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        self.reader = reader_or_shipped(reader)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; a candidate in which everything may be touched has no score."""
        look = look_at(self.reader, group)
        if look is None:
            return abstain(group)
        ends, had_T = look.ends, look.start.there_NT > PRESENT
        touched_GLT = touchable(ends, had_T) & ~look.blank_GL[..., None]
        begin = max(1, look.before)
        calm = torch.stack(
            [~touched_GLT[:, max(0, k - CALM) : k + 1].any(1) for k in range(begin, touched_GLT.shape[1])], 1
        )
        moved = (ends.pixel_NT2.diff(dim=1).square().sum(-1))[:, begin - 1 :]
        stayed = (-moved / (2 * STILL**2)).exp() * look.there_GLT[:, begin:]
        counts = (calm & had_T).float()
        total = counts.sum((1, 2))
        values = (stayed * counts).sum((1, 2)) / total.clamp_min(1)
        return Scores(torch.where(total > 0, values, 0), total > 0)


def touchable(seen: Seen, had_T: Tensor) -> Tensor:
    """bool (G, L, T): whether the gripper, or a thing that it may touch, reaches a thing."""
    grip, place = seen.grip_N4[..., None, :], seen.place_NT3
    across = (place[..., 0] - grip[..., 0]).abs() - grip[..., 3] / 2
    along = (place[..., 1] - grip[..., 1]).abs()
    low = grip[..., 2] < 2 * RESTING + ABOVE + (place[..., 2] - RESTING).clamp_min(0)
    near = (across < RADIUS + REACH) & (along < RADIUS + REACH) & low
    apart = (place[..., :, None, :2] - place[..., None, :, :2]).norm(dim=-1)
    linked = (apart < CHAIN) & had_T & had_T[:, None]
    for _ in range(2):
        near = near | (linked & near[..., None, :]).any(-1)
    return near


class Grasp:
    """What is lifted hangs between the fingers, and what hung there comes along; 0 to 1.

    Nothing may float: a lifted thing counts by its distance from the gripper, and by how far it slips in the hand
    over a latent. What was held before the chunk must be there, lifted or let go of by opening fingers. A blank
    picture counts as a lifted thing that is lost.
    """

    name = "grasp"

    def __init__(self, reader: SceneReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        self.reader = reader_or_shipped(reader)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; those without anything lifted or lost have no score."""
        look = look_at(self.reader, group)
        if look is None:
            return abstain(group)
        ends, had_T = look.ends, look.start.there_NT > PRESENT
        there, blank = look.there_GLT, look.blank_GL
        lifted = (ends.place_NT3[..., 2] - RESTING > LIFTED) & (there > PRESENT) & had_T
        hangs = hanging(ends)
        begin = max(1, look.before)
        slip = (ends.place_NT3 - ends.grip_N4[..., None, :3]).diff(dim=1)[:, begin - 1 :].norm(dim=-1)
        stays = (-slip.square() / (2 * SLIP**2)).exp()
        held = (lifted & (hangs > 0.5))[:, begin - 1 : -1]
        opened = ends.grip_N4[..., 3].diff(dim=1)[:, begin - 1 :, None] > NOMINAL[3] / 4
        seen = ~(blank[:, begin:] | blank[:, begin - 1 : -1])[..., None]
        must = held & ~(opened & seen)
        floats = lifted[:, begin:] & ~must
        scores = torch.where(must, stays * there[:, begin:], hangs[:, begin:])
        counts = (must | floats).float()
        total = counts.sum((1, 2)) + blank[:, begin:].sum(1)
        values = (scores * counts).sum((1, 2)) / total.clamp_min(1)
        return Scores(torch.where(total > 0, values, 0), total > 0)


def hanging(seen: Seen) -> Tensor:
    """How well a thing's place fits between the fingers, (..., T) in 0..1."""
    offset = (seen.place_NT3 - seen.grip_N4[..., None, :3]).abs()
    beyond = (offset[..., :2] - HELD).clamp_min(0).square().sum(-1)
    return (-beyond / (2 * 0.03**2)).exp()
