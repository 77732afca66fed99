"""Chunks of the engine's own continuation of the package's Hands scenarios, as groups for critics."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.types import Group
from worldcompass.worlds.hands.footage import Set, shipped

CHUNK = 4


def group_of(name: Set, number: int, chunk: int, instruction: str | None = None) -> Group:
    """One chunk of a scenario as a group of one candidate."""
    plan, scenario = shipped(name)[number]
    assert scenario.truth is not None
    frames, first = scenario.truth.frames_F3hw, 4 * (CHUNK * chunk - 1) + 1
    end = first + 4 * CHUNK
    return Group(
        frames[None, first:end],
        frames[:first],
        frames[0],
        scenario.truth.actions.latents(CHUNK * chunk, CHUNK * (chunk + 1)),
        4,
        instruction=plan.instruction if instruction is None else instruction,
    )


def beside(group: Group, *others: Tensor) -> Group:
    """The group with further candidates, frames (F, 3, h, w) each."""
    frames = torch.stack([group.frames_GF3hw[0], *others])
    return Group(
        frames,
        group.past_frames_F3hw,
        group.first_frame_3hw,
        group.actions,
        group.frames_per_latent,
        instruction=group.instruction,
    )
