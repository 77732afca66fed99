"""Random composite trajectories: motions drawn from a mix, each held for a while.

Source: the trajectory generator of WorldCompass (arXiv 2602.09022): 32 motions in seven families, each held for
2 to 16 latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from worldcompass.actions import ActionSpace, CameraActions
from worldcompass.geometry import label

HOLD_MIN, HOLD_MAX = 2, 16  # latents, WorldCompass's trajectory generator

_YAW, _PITCH = (1, 2), (3, 4)
FAMILIES: dict[str, tuple[int, ...]] = {
    "move": tuple(label(t, 0) for t in (1, 2, 3, 4)),
    "yaw": tuple(label(0, r) for r in _YAW),
    "pitch": tuple(label(0, r) for r in _PITCH),
    "diagonal": tuple(label(t, 0) for t in (5, 6, 7, 8)),
    "turn": tuple(label(0, r) for r in (5, 6, 7, 8)),
    "move+yaw": tuple(label(t, r) for t in (1, 2, 3, 4) for r in _YAW),
    "move+pitch": tuple(label(t, r) for t in (1, 2, 3, 4) for r in _PITCH),
}
"""The method's 32 motions; ``turn`` is yaw with pitch."""

Mix = Sequence[tuple[float, tuple[int, ...]]]
"""Weights of families, each with its actions; within a family every action is as likely."""

METHOD_MIX: Mix = tuple(zip((4.0, 4.0, 2.0, 6.0, 2.0, 6.0, 1.0), FAMILIES.values(), strict=True))


def mix_of(space: ActionSpace) -> Mix:
    """The method's mix for a camera; for controls each way of each alone, and as often two of them together."""
    if isinstance(space, CameraActions):
        return METHOD_MIX
    alone = tuple(space.of_words([key.word]) for key in space.keys)
    pairs = [(a, b) for a, b in combinations(space.keys, 2) if a.axis != b.axis]
    together = tuple(space.of_words([a.word, b.word]) for a, b in pairs)
    return ((1.0, alone), (1.0, together)) if together else ((1.0, alone),)


def parse_mix(text: str, space: ActionSpace) -> Mix:
    """A mix such as ``move=4, yaw=2, w+left=1``: names of families, or keys as in a path, with weights.

    Raises:
        ValueError: one sentence naming the part that cannot be read.
    """
    mix = [_weighted(part.strip(), space) for part in text.split(",")]
    if not sum(weight for weight, _ in mix) > 0:
        raise ValueError(f"the mix {text!r} gives every motion a weight of 0: nothing could be drawn")
    return tuple(mix)


def draw_motion(rng: np.random.Generator, mix: Mix = METHOD_MIX) -> int:
    """One action: a family by its weight, then any of its actions."""
    weights = np.array([weight for weight, _ in mix], float)
    family = mix[rng.choice(len(weights), p=weights / weights.sum())][1]
    return int(rng.choice(family))


def random_composites(
    rng: np.random.Generator,
    num_latents: int,
    mix: Mix = METHOD_MIX,
    hold: tuple[int, int] = (HOLD_MIN, HOLD_MAX),
) -> Tensor:
    """Commands of a whole trajectory, int64 (num_latents,): the start's 0, then motions, the last one cut.

    Args:
        rng: the only source of randomness.
        num_latents: of the trajectory, the start image's included.
        mix: which motions, how often.
        hold: fewest and most latents that a motion lasts, both included.
    """
    labels = [0]
    while len(labels) < num_latents:
        labels += [draw_motion(rng, mix)] * int(rng.integers(hold[0], hold[1] + 1))
    return torch.tensor(labels[:num_latents])


def _weighted(part: str, space: ActionSpace) -> tuple[float, tuple[int, ...]]:
    name, equals, number = (piece.strip() for piece in part.partition("="))
    try:
        weight = float(number) if equals else -1.0
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise ValueError(f"cannot read {part!r} in the mix: expected NAME=WEIGHT with a weight of 0 or more")
    return weight, FAMILIES.get(name) or (_action_of_keys(name, space),)


def _action_of_keys(keys: str, space: ActionSpace) -> int:
    try:
        return int(space.parse(f"{keys}-1")[1])
    except ValueError as why:
        raise ValueError(
            f"there is no motion {keys!r}: expected one of {', '.join(FAMILIES)}, or keys such as w+left"
        ) from why
