"""Planning in a hierarchy: how many sub-goals in a row succeed before a world forgets?

A planner turns a scene into sub-goals: pick up a thing, put it into the other half of the table, then the next
thing, and around again. Each becomes commands by a script, from what pictures show alone. A chain ends with the
first sub-goal that fails, or after ``MOST``. As in CALVIN (arXiv 2112.03227) the length of the chain is the score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object
from worldcompass.statistics import Crossing, Estimate
from worldcompass.walk import start_walk
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.engine import Engine, controls_of
from worldcompass.worlds.hands.facts import REST_HEIGHT, THINGS, TOUCHES
from worldcompass.worlds.hands.gymnasium import scenario_of
from worldcompass.worlds.hands.place import Table
from worldcompass.worlds.hands.scripts import GRASP_LOW, Behaviour, Look, Pick, action_of, hover
from worldcompass.worlds.hands.sight import ColourEye, on_table
from worldcompass.worlds.hands.silhouettes import start_poses
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import SceneStart, draw_start
from worldcompass.worlds.hands.tasks import LIFTED, PICK, STANDING, Seen, lifted
from worldcompass.worlds.hands.world import HandsWorld

PUT = "put"
MOST = 8  # sub-goals of a chain
LATENTS = 200  # of an episode, at most; a sub-goal takes about twelve
FIRST = 2000  # number of the first scene; other commands start lower
SPOTS = [(x, y) for x in (0.08, 0.14) for y in (-0.12, -0.04, 0.04, 0.12)]
"""Places of the right half where a thing can be put, metres; those of the left half mirror them."""
CLEAR = 0.02  # metres that a put thing must be beyond the middle of the table
ENGINE, PIXELS, BASE, TRAINED = "engine", "pixels", "base", "trained"
"""The engine judged by its truth, the engine by pixels, and world models by pixels."""


@dataclass(frozen=True)
class SubGoal:
    """One step of a plan."""

    verb: str
    """``PICK`` or ``PUT``."""
    kind: str
    side: int = 0
    """Of a put: 1 for the right half of the table, -1 for the left."""

    def done_in_truth(self, look: Look) -> bool:
        """Whether the engine's truth shows it."""
        index = THINGS.index(self.kind)
        x, raised = float(look.things_T7[index, 0]), float(look.things_T7[index, 2]) - REST_HEIGHT[index]
        if self.verb == PICK:
            return bool(look.held_T[index]) and raised >= LIFTED
        return not look.held_T[index] and raised < STANDING and x * self.side > CLEAR

    def done_in_pixels(self, seen: Seen) -> bool:
        """Whether pictures and commands show it."""
        index = THINGS.index(self.kind)
        if self.verb == PICK:
            return lifted(seen, index)
        x = on_table(seen.places_MT2[-1, index], self.kind)[0]
        return bool(x * self.side > CLEAR) and not lifted(seen, index)


class PutAt:
    """With a thing in hand: carry it to a place, sink until it stands, let go, rise."""

    def __init__(self, kind: str, place_2: tuple[float, float]) -> None:
        self._low, self._place, self._patience = GRASP_LOW[kind], place_2, 28
        self._rest = [action_of((0, 0, 0, 1))] * 2 + [action_of((0, 0, 1, 0))] * 4
        self._sinks = False

    def __call__(self, look: Look) -> int | None:
        """The next action, or None when done."""
        self._patience -= 1
        if not self._sinks and self._patience > 0:
            action = hover(look, *self._place, 0)
            if action is not None:
                return action
        self._sinks = True
        if look.grip_4[2] > self._low and self._patience > 0:
            return action_of((0, 0, -1, 0))
        return self._rest.pop(0) if self._rest else None


class Planner:
    """One episode: chooses sub-goals, carries them out by scripts, and counts those that succeed in a row.

    Args:
        start: the scene and its start picture.
        most: sub-goals after which the chain is whole.
    """

    def __init__(self, start: SceneStart, most: int = MOST) -> None:
        self._eye = ColourEye(start.scene, start.image_3hw)
        self._seen = Seen.start(start.scene, self._eye(start.image_3hw[None])[0])
        self._start, self._poses = start_poses(start.scene), start_poses(start.scene)
        self._kinds, self._most = [thing.kind for thing in start.scene.things], most
        self.length, self.over = 0, False
        self._begin()

    def controls(self, done: Callable[[SubGoal, Seen], bool]) -> np.ndarray:
        """The next four controls; ``done`` judges a sub-goal whose script has ended."""
        while not self.over:
            action = self._behaviour(self._believed())
            if action is not None:
                return controls_of(action)
            if not done(self.goal, self._seen):
                self.over = True
                break
            self.length += 1
            self.over = self.length == self._most
            self._begin()
        return np.zeros(4)

    def see(self, controls_4: np.ndarray, last_3hw: Tensor) -> None:
        """Take in the last picture after a latent of these controls."""
        self._seen = self._seen.after(controls_4, self._eye(last_3hw[None])[0])

    def _begin(self) -> None:
        """Turn the next sub-goal into a behaviour, from where things are seen now."""
        self._look_around()
        kind = self._kinds[self.length // 2 % len(self._kinds)]
        if self.length % 2 == 0:
            self.goal = SubGoal(PICK, kind)
            self._from = float(self._poses[THINGS.index(kind), 0])
            self._behaviour: Behaviour = Pick(kind)
            return
        side = -1 if self._from > 0 else 1
        self.goal = SubGoal(PUT, kind, side)
        self._behaviour = PutAt(kind, self._free_spot(kind, side))

    def _free_spot(self, kind: str, side: int) -> tuple[float, float]:
        """The place of a half that is farthest from all other things."""
        others = [self._poses[THINGS.index(other), :2] for other in self._kinds if other != kind]
        spots = [(side * x, y) for x, y in SPOTS]
        return max(spots, key=lambda spot: min(float(np.linalg.norm(spot - other)) for other in others))

    def _look_around(self) -> None:
        """Believe that each thing has moved as far as its picture has; one that is not seen has not."""
        for kind in self._kinds:
            index = THINGS.index(kind)
            first, now = (on_table(self._seen.places_MT2[m, index], kind) for m in (0, -1))
            if np.isfinite(now - first).all():
                self._poses[index, :2] = self._start[index, :2] + now - first

    def _believed(self) -> Look:
        touch = np.zeros((len(THINGS), len(TOUCHES)), bool)
        return Look(self._seen.grip_M4[-1], self._poses, touch, np.zeros(len(THINGS), bool))


def by_pixels(goal: SubGoal, seen: Seen) -> bool:
    """Judges a sub-goal by what a viewer sees."""
    return goal.done_in_pixels(seen)


def in_engine(table: Table, start: SceneStart, by_truth: bool, most: int = MOST) -> int:
    """The length of a chain in the engine."""
    planner, place = Planner(start, most), table.begin(start.scene)
    for _ in range(LATENTS):
        look = place.look
        judge = (lambda goal, seen, look=look: goal.done_in_truth(look)) if by_truth else by_pixels
        controls = planner.controls(judge)
        if planner.over:
            break
        place = place.go(controls)
        planner.see(controls, place.frames_F3hw[-1])
    return planner.length


def in_world(
    world: HandsWorld, starts: Sequence[SceneStart], seed: int, on_latent: Callable[[], None] = lambda: None
) -> list[int]:
    """The lengths of chains in a world model, one a scene, in one batch."""
    planners = [Planner(start) for start in starts]
    walk = start_walk(world, [scenario_of(start) for start in starts], seed)
    for _ in range(LATENTS):
        controls = np.stack([planner.controls(by_pixels) for planner in planners])
        if all(planner.over for planner in planners):
            break
        walk = walk.step(ACTIONS.hold(torch.as_tensor(controls)[:, None]))
        for planner, own, frames in zip(planners, controls, walk.frames_PF3hw.cpu(), strict=True):
            planner.see(own, frames[-1])
        on_latent()
    return [planner.length for planner in planners]


@dataclass(frozen=True)
class Chains:
    """Lengths of chains of every side, in the same scenes."""

    scenes: tuple[str, ...]
    lengths: Mapping[str, tuple[int, ...]]
    """By ``engine``, ``pixels``, ``base`` and ``trained``."""

    def mean(self, side: str) -> Estimate:
        """Sub-goals in a row, with a 95% interval over scenes."""
        return Crossing.of(self.scenes).mean(np.array(self.lengths[side], float))

    def reached(self, side: str, count: int) -> float:
        """The share of scenes in which so many sub-goals in a row succeeded."""
        return float(np.mean(np.array(self.lengths[side]) >= count))


def draw_starts(split: str, count: int) -> list[SceneStart]:
    """``count`` scenes of a split, with their pictures.

    Raises:
        UserError: for an unknown split, or where the engine cannot draw.
    """
    with Engine() as engine:
        scenes = [scene(split, FIRST + number) for number in range(count)]
        return [SceneStart(one, draw_start(engine, one)) for one in scenes]


def measure_chains(
    folder: Path,
    starts: Sequence[SceneStart],
    worlds: Mapping[str, HandsWorld],
    seed: int,
    on_latent: Callable[[], None] = lambda: None,
) -> Chains:
    """Run every side that has no file in the folder yet.

    Raises:
        UserError: when a file is of other scenes.
    """
    names, lengths = [start.scene.name for start in starts], {}
    for side in (ENGINE, PIXELS, *worlds):
        path = folder / f"{side}.json"
        if not path.is_file():
            if side in worlds:
                found = in_world(worlds[side], starts, seed, on_latent)
            else:
                table = Table()
                found = [in_engine(table, start, side == ENGINE) for start in starts]
                table.close()
            write_json(path, {"scenes": names, "lengths": found})
        stored = read_object(path, "chains of sub-goals")
        if stored.get("scenes") != names:
            raise UserError(f"{path} holds chains in other scenes: delete it, it is made again")
        lengths[side] = tuple(int(length) for length in stored["lengths"])
    return Chains(tuple(names), lengths)
