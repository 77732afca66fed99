"""The instruction reward: how far a clip is in doing what its instruction says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.rewards.abstain import abstain
from worldcompass.types import Group, Scores
from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.looks import HUES, UNSEEN_HUES, rgb
from worldcompass.worlds.hands.rewards.looking import PRESENT, Look, look_at, reader_or_shipped
from worldcompass.worlds.hands.rewards.objects import RESTING, hanging
from worldcompass.worlds.hands.scripts import WAYS
from worldcompass.worlds.hands.tasks import PICK, Instruction, parse

if TYPE_CHECKING:
    from worldcompass.worlds.hands.critics.reader import SceneReader

RAISED = 0.08  # metres above its resting height: picked up
PUSHED = 0.05  # metres along the way: pushed
LAST = 2  # ends of a chunk that count
ALIKE = 0.25  # of red, green and blue on average, within which a thing has the named colour


class InstructionFollowing:
    """How far the named thing is raised or pushed at the chunk's end, as a share of what is asked; 0 to 1.

    A raised thing must hang between the fingers, and a thing that is there in its own colour alone counts.
    """

    name = "instruction"

    def __init__(self, reader: SceneReader | None = None) -> None:
        """Use ``reader``, by default the one with the weights of the package."""
        self.reader = reader_or_shipped(reader)

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstain without an instruction of this world, or without the named thing."""
        task, look = _asked(group.instruction), look_at(self.reader, group)
        if task is None or look is None or not _has(look, task):
            return abstain(group)
        return Scores(done(look, task), torch.ones(len(group.frames_GF3hw), dtype=torch.bool))


def _asked(instruction: str) -> Instruction | None:
    """The instruction of this world in a text; None for any other text."""
    try:
        return parse(instruction)
    except UserError:
        return None


def _has(look: Look, task: Instruction) -> bool:
    """Whether the start shows the task's thing."""
    index = THINGS.index(task.kind)
    if float(look.start.there_NT[index]) <= PRESENT:
        return False
    if not task.colour:
        return True
    named = torch.tensor(rgb((HUES | UNSEEN_HUES)[task.colour]))
    return float((look.start.colour_NT3[index] - named).abs().mean()) < ALIKE


def done(look: Look, task: Instruction) -> Tensor:
    """See ``InstructionFollowing``; (G,)."""
    index = THINGS.index(task.kind)
    ends = look.ends.pick(slice(-LAST, None), 1)
    place, there = ends.place_NT3[:, :, index], look.there_GLT[:, -LAST:, index]
    if task.verb == PICK:
        progress = (place[..., 2] - RESTING[index]) / RAISED
        there = there * hanging(ends)[..., index]
    else:
        moved = place[..., :2] - look.start.place_NT3[index, :2]
        progress = (moved * torch.tensor(WAYS[task.way])).sum(-1) / PUSHED
    return (progress.clamp(0, 1) * there).mean(1)
