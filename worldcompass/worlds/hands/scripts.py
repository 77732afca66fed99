"""Scripted behaviours, in composite actions, from the engine's truth: they make recordings and tasks.

A behaviour is asked for one action per latent. Steps of 50 mm leave up to 25 mm of error in x and y, so a grasp
is aimed at with open fingers, and closing them centres the thing between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from worldcompass.worlds.hands.engine import Engine, Steps
from worldcompass.worlds.hands.facts import (
    CUP_HEIGHT,
    CUP_RADIUS,
    FINGER_HALF,
    HANDLE_REACH,
    LIMIT_HIGH,
    LIMIT_LOW,
    NUM_ACTIONS,
    PLANAR,
    STEP,
    TABLE_HALF,
    THINGS,
    action_of,
)
from worldcompass.worlds.hands.splits import CLEAR_HEIGHT, facing_of

GRASP_LOW = {"cup": 0.042, "ball": 0.026, "block": 0.026, "bottle": 0.042}
"""Finger tips at or below this height can grasp a thing that stands on the table, metres."""
WAYS = {"right": (1, 0), "left": (-1, 0), "away": (0, 1), "near": (0, -1)}
"""Directions of a push, as signs of x and y."""
PUSH_HEIGHT = 0.045  # of the finger tips, at most
PUSH_START = (0.150, 0.120)  # metres from the thing's middle, in x and y: closed fingers go down beside it
NARROW = 0.020  # opening that counts as closed
PATIENCE = 7  # latents after which a stage that does not end is left
LEANING = np.array([0.06, 0.06, 0.02, 0.02])  # nearer to its limit than this, an axis most often turns round
SINGLE_SHARE = 0.2  # of wandering motions that use one axis alone


@dataclass(frozen=True)
class Look:
    """What a behaviour goes by: the truth of the last frame."""

    grip_4: np.ndarray
    things_T7: np.ndarray
    touch_T5: np.ndarray
    held_T: np.ndarray

    @staticmethod
    def at_end(steps: Steps) -> Look:
        """The last frame of some steps."""
        return Look(steps.grip_F4[-1], steps.things_FT7[-1], steps.touch_FT5[-1], steps.held_FT[-1])


class Behaviour(Protocol):
    """Asked for one action per latent until it says None."""

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        ...


def grasp_point(look: Look, kind: str) -> tuple[float, float]:
    """Where the gripper should stand, x and y, to take a thing.

    Where the cup's handle points along x, that is midway between the handle's end and the cup's other side.
    """
    pose = look.things_T7[THINGS.index(kind)]
    x, y = float(pose[0]), float(pose[1])
    if kind == "cup":
        angle = np.deg2rad(facing_of(pose[3:]))
        handle_x, handle_y = (CUP_RADIUS + HANDLE_REACH) * np.array([np.cos(angle), np.sin(angle)])
        if abs(handle_y) < FINGER_HALF[1] + 0.02:  # the handle lies between the fingers
            x += 0.5 * (min(-CUP_RADIUS, handle_x) + max(CUP_RADIUS, handle_x))
    return x, y


def toward(distance: float, tolerance: float = STEP / 2) -> int:
    """Sign of the step that brings nearer, 0 within the tolerance."""
    return int(np.sign(distance)) if abs(distance) > tolerance else 0


def hover(look: Look, x: float, y: float, opening: int) -> int | None:
    """The next action on the way to stand high above a point; None when there and as open as wanted."""
    grip = look.grip_4
    up = int(grip[2] < CLEAR_HEIGHT - 0.005)
    low = up and grip[2] < CLEAR_HEIGHT - STEP  # rise before going sideways
    x = float(np.clip(x, LIMIT_LOW[0], LIMIT_HIGH[0]))
    y = float(np.clip(y, LIMIT_LOW[1], LIMIT_HIGH[1]))
    planar = (0, 0) if low else (toward(x - grip[0]), toward(y - grip[1]))
    wanted = {1: grip[3] < LIMIT_HIGH[3] - 0.01, -1: grip[3] > NARROW, 0: False}[opening]
    signs = (*planar, up, opening if wanted else 0)
    return action_of(signs) if any(signs) else None


class Pick:
    """Go above a thing, down, close, lift by ``lift`` steps.

    Args:
        error_2: metres by which the aim misses in x and y.
        high: metres by which it closes too high.
        closes: steps of closing, at most.
    """

    def __init__(
        self,
        kind: str,
        lift: int = 3,
        error_2: tuple[float, float] = (0.0, 0.0),
        high: float = 0.0,
        closes: int = 3,
    ) -> None:
        self._kind, self._lift, self._error = kind, lift, error_2
        self._low, self._closes = GRASP_LOW[kind] + high, closes
        self._stage, self._count = "over", 0

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        if self._stage == "over":
            x, y = grasp_point(look, self._kind)
            action = hover(look, x + self._error[0], y + self._error[1], 1)
            if action is not None and self._waits(4 * PATIENCE):
                return action
            self._enter("down")
        if self._stage == "down":
            if look.grip_4[2] > self._low and self._waits(PATIENCE):
                return action_of((0, 0, -1, 0))
            self._enter("close")
        if self._stage == "close":
            touch = look.touch_T5[THINGS.index(self._kind)]
            grasped = touch[1] and touch[2] and self._count >= 2
            if not grasped and self._waits(self._closes):
                return action_of((0, 0, 0, -1))
            self._enter("lift")
        return action_of((0, 0, 1, 0)) if self._waits(self._lift) else None

    def _enter(self, stage: str) -> None:
        self._stage, self._count = stage, 0

    def _waits(self, latents: int) -> bool:
        self._count += 1
        return self._count <= latents


class Push:
    """With closed fingers, go down beside a thing and then ``steps`` steps through it.

    Args:
        way: a name of ``WAYS``.
        error_2: metres by which the aim misses in x and y.
        high: metres by which it pushes too high.
    """

    def __init__(
        self,
        kind: str,
        way: str,
        steps: int = 5,
        error_2: tuple[float, float] = (0.0, 0.0),
        high: float = 0.0,
    ) -> None:
        self._kind, self._way, self._left = kind, WAYS[way], steps
        self._error, self._low = error_2, PUSH_HEIGHT + high
        self._stage, self._patience = "over", 4 * PATIENCE

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        self._patience -= 1
        if self._stage == "over":
            x, y = look.things_T7[THINGS.index(self._kind), :2]
            start_x = x - self._way[0] * PUSH_START[0] + self._error[0]
            start_y = y - self._way[1] * PUSH_START[1] + self._error[1]
            action = hover(look, start_x, start_y, -1)
            if action is not None and self._patience > 0:
                return action
            self._stage, self._patience = "down", PATIENCE
        if self._stage == "down":
            if look.grip_4[2] > self._low and self._patience > 0:
                return action_of((0, 0, -1, -1 if look.grip_4[3] > NARROW else 0))
            self._stage = "push"
        self._left -= 1
        return action_of((*self._way, 0, 0)) if self._left >= 0 else None


def pushes(things_T7: np.ndarray, kind: str) -> list[str]:
    """Ways in which a thing can be pushed: the gripper reaches the place beside it, and there is room ahead."""
    x, y = (float(value) for value in things_T7[THINGS.index(kind), :2])
    found = []
    for way, signs in WAYS.items():
        start = np.array([x, y]) - np.array(signs) * PUSH_START
        end = np.array([x, y]) + np.array(signs) * 2 * STEP
        reached = np.all((start > LIMIT_LOW[:2] - STEP / 2) & (start < LIMIT_HIGH[:2] + STEP / 2))
        if reached and np.all(np.abs(end) < np.array(TABLE_HALF) - CUP_RADIUS):
            found.append(way)
    return found


class Place:
    """With a thing in hand: carry it over another one, sink until it nearly touches, let go, rise."""

    def __init__(self, kind: str, onto: str) -> None:
        self._kind, self._onto, self._patience = kind, onto, 4 * PATIENCE
        self._rest = [action_of((0, 0, 0, 1))] * 2 + [action_of((0, 0, 1, 0))] * 2

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        self._patience -= 1
        held, under = (look.things_T7[THINGS.index(kind)] for kind in (self._kind, self._onto))
        if self._patience > 0 and look.held_T[THINGS.index(self._kind)] and len(self._rest) == 4:
            planar = (toward(under[0] - held[0]), toward(under[1] - held[1]))
            free = look.grip_4[2] > LIMIT_HIGH[2] - 0.01
            if planar != (0, 0):
                return action_of((*planar, 0 if free else 1, 0))
            if look.grip_4[2] - STEP > CUP_HEIGHT + 0.010:
                return action_of((0, 0, -1, 0))
        return self._rest.pop(0) if self._rest else None


class Wander:
    """Random composite actions, each held for one to five latents; seldom leans on the limits.

    Args:
        low: stay near the table, where things are.
    """

    def __init__(self, rng: np.random.Generator, low: bool = False) -> None:
        self._rng, self._low, self._left, self._action = rng, low, 0, 0

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        if self._left <= 0:
            self._left, self._action = int(self._rng.integers(1, 6)), self._draw(look)
        self._left -= 1
        return self._action

    def _draw(self, look: Look) -> int:
        rng = self._rng
        if rng.random() < SINGLE_SHARE:
            return self._inwards(look, np.eye(4)[rng.integers(4)] * rng.choice([-1, 1]))
        planar = PLANAR[int(rng.integers(9))] if rng.random() < 0.85 else (0, 0)
        height = int(rng.choice([0, 1, -1], p=[0.3, 0.2, 0.5] if self._low else [0.4, 0.3, 0.3]))
        return self._inwards(look, np.array([*planar, height, rng.choice([0, -1, 1], p=[0.5, 0.3, 0.2])]))

    def _inwards(self, look: Look, signs: np.ndarray) -> int:
        """The action, most often turned round on axes that are near their limit."""
        leans = (signs > 0) & (look.grip_4 > LIMIT_HIGH - LEANING[0])
        leans |= (signs < 0) & (look.grip_4 < LIMIT_LOW + LEANING)
        turned = leans & (self._rng.random(4) < 0.85)
        return action_of(np.where(turned, -signs, signs))


class Fixed:
    """Given actions one after the other."""

    def __init__(self, actions: Sequence[int]) -> None:
        self._actions = list(actions)

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        return self._actions.pop(0) if self._actions else None


class Chain:
    """Behaviours one after the other; a share of the actions is replaced by any action."""

    def __init__(self, rng: np.random.Generator, parts: Sequence[Behaviour], noise: float = 0.0) -> None:
        self._rng, self._parts, self._noise = rng, list(parts), noise

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        while self._parts:
            action = self._parts[0](look)
            if action is not None:
                noisy = self._rng.random() < self._noise
                return int(self._rng.integers(NUM_ACTIONS)) if noisy else action
            self._parts.pop(0)
        return None


def carry(rng: np.random.Generator, steps: int, sink: int) -> Fixed:
    """With a thing in hand: move about, sink, let go, rise."""
    way = PLANAR[int(rng.integers(1, 9))]
    moves = [(*way, 0, 0)] * steps + [(0, 0, -1, 0)] * sink + [(0, 0, 0, 1)] * 2 + [(0, 0, 1, 0)] * 2
    return Fixed([action_of(signs) for signs in moves])


def play(
    engine: Engine, look: Look, behaviour: Behaviour, most: int, draw: bool = True
) -> tuple[list[int], list[Steps]]:
    """Let a behaviour act for at most so many latents: its actions, and what was seen of each."""
    actions: list[int] = []
    seen: list[Steps] = []
    while len(seen) < most and (action := behaviour(look)) is not None:
        actions.append(action)
        seen.append(engine.act(action, draw=draw))
        look = Look.at_end(seen[-1])
    return actions, seen
