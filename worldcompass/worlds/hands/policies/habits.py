"""Scripted policies of clearly different quality, for picking up and for pushing.

A policy sees pictures and knows the scene's start, in the engine as in a world model: never the truth of a later
moment. Where the gripper is it reckons from its own commands. All but two go by a script; their habits spoil it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worldcompass.worlds.hands.engine import controls_of
from worldcompass.worlds.hands.facts import NUM_ACTIONS, STEP, THINGS, TOUCHES
from worldcompass.worlds.hands.scripts import Behaviour, Look, Pick, Push, Wander
from worldcompass.worlds.hands.sight import ColourEye, on_table
from worldcompass.worlds.hands.silhouettes import start_poses
from worldcompass.worlds.hands.starts import SceneStart
from worldcompass.worlds.hands.tasks import PICK, Instruction, reckoned

Actor = Callable[[np.ndarray], np.ndarray]
"""One episode of a policy: the frames of the last step, uint8 (F, h, w, 3), to four controls."""


@dataclass(frozen=True)
class Habits:
    """How a policy departs from a good script."""

    noise: float = 0.0
    """Share of actions that are replaced by any action."""
    wait: int = 0
    """Latents before it begins."""
    miss: float = 0.0
    """Metres by which it misses the aim, in a direction of its own in every scene."""
    high: float = 0.0
    """Metres above the right height at which it closes or pushes."""
    short: bool = False
    """Whether it closes or pushes less far than it should."""
    looks: bool = False
    """Whether it looks where the thing is now, instead of trusting the start."""
    other: bool = False
    """Whether it takes another thing than the one asked for."""


@dataclass(frozen=True)
class Policy:
    """A way of doing an instruction."""

    name: str
    says: str
    """What it does, for a table."""
    habits: Habits | None
    """None for the two that follow no script."""

    def begin(self, start: SceneStart, wanted: Instruction, rng: np.random.Generator) -> Actor:
        """An episode's actor.

        Args:
            start: the scene and its start picture.
            wanted: the task.
            rng: of what the policy draws; the same in engine and world.
        """
        return _Acting(start, self._behaviour(start, wanted, rng), wanted, self.habits or Habits(), rng)

    def _behaviour(self, start: SceneStart, wanted: Instruction, rng: np.random.Generator) -> Behaviour:
        if self.habits is None:
            return Wander(rng, low=True) if self.name == RANDOM else _still
        habits, kind = self.habits, wanted.kind
        angle = rng.uniform(0, 2 * np.pi)
        error = (float(habits.miss * np.cos(angle)), float(habits.miss * np.sin(angle)))
        if habits.other:
            others = [thing.kind for thing in start.scene.things if thing.kind != kind]
            kind = others[int(rng.integers(len(others)))]
        if wanted.verb == PICK:
            return Pick(kind, error_2=error, high=habits.high, closes=1 if habits.short else 3)
        return Push(kind, wanted.way, 2 if habits.short else 5, error, habits.high)


class _Acting:
    """Follows a behaviour by what it believes: start poses, its own commands, for some what pictures show."""

    def __init__(
        self,
        start: SceneStart,
        behaviour: Behaviour,
        wanted: Instruction,
        habits: Habits,
        rng: np.random.Generator,
    ) -> None:
        self._behaviour, self._habits, self._rng = behaviour, habits, rng
        self._grip, self._poses = np.array(start.scene.gripper), start_poses(start.scene)
        self._start_poses, self._wanted, self._latents = self._poses.copy(), wanted, 0
        self._eye = ColourEye(start.scene, start.image_3hw) if habits.looks else None
        self._start_place = self._see(start.image_3hw.movedim(0, -1).numpy())

    def __call__(self, frames_Fhw3: np.ndarray) -> np.ndarray:
        self._latents += 1
        if self._latents <= self._habits.wait:
            return np.zeros(4)
        self._look(frames_Fhw3[-1])
        action = self._behaviour(self._believed())
        if self._rng.random() < self._habits.noise:
            action = int(self._rng.integers(NUM_ACTIONS))
        controls = controls_of(action or 0)
        self._grip = reckoned(self._grip, controls)
        return controls

    def _believed(self) -> Look:
        touch = np.zeros((len(THINGS), len(TOUCHES)), bool)
        return Look(self._grip, self._poses, touch, np.zeros(len(THINGS), bool))

    def _see(self, frame_hw3: np.ndarray) -> np.ndarray:
        """Where the thing seems to stand, x and y; NaN where it is not seen or nobody looks."""
        if self._eye is None:
            return np.full(2, np.nan)
        place = self._eye(torch.from_numpy(np.ascontiguousarray(frame_hw3)).movedim(-1, 0)[None])[0]
        return on_table(place[THINGS.index(self._wanted.kind)], self._wanted.kind)

    def _look(self, frame_hw3: np.ndarray) -> None:
        """Believe that the thing has moved as far as its picture has, if that is more than half a step."""
        moved = self._see(frame_hw3) - self._start_place
        if np.linalg.norm(moved) > STEP / 2:  # false for NaN
            index = THINGS.index(self._wanted.kind)
            self._poses[index, :2] = self._start_poses[index, :2] + moved


def _still(look: Look) -> int | None:
    return None


RANDOM = "random"
POLICIES = (
    Policy("script", "goes by the start poses", Habits()),
    Policy("looking", "also looks where the thing is now", Habits(looks=True)),
    Policy("shaky", "every tenth action is any action", Habits(noise=0.1)),
    Policy("drunk", "every third action is any action", Habits(noise=0.33)),
    Policy("late", "waits for 13 latents", Habits(wait=13)),
    Policy("near miss", "aims 50 mm aside", Habits(miss=0.05)),
    Policy("wide miss", "aims 80 mm aside", Habits(miss=0.08)),
    Policy("hasty", "closes or pushes 7 cm too high", Habits(high=0.07)),
    Policy("short", "closes once, pushes two steps", Habits(short=True)),
    Policy("confused", "takes another thing", Habits(other=True)),
    Policy(RANDOM, "moves at random near the table", None),
    Policy("still", "does nothing", None),
)
"""From the best script down to doing nothing."""
