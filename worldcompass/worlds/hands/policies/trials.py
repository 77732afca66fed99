"""Running policies in the engine and in world models, and storing what came of it, block by block.

A block is one policy on one task, in all scenes. Its file appears whole or not at all, so the same call resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object
from worldcompass.walk import start_walk
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.gymnasium import scenario_of
from worldcompass.worlds.hands.place import Table
from worldcompass.worlds.hands.policies.habits import POLICIES, Actor, Policy
from worldcompass.worlds.hands.splits import scene, seed_of
from worldcompass.worlds.hands.starts import SceneStart, draw_start
from worldcompass.worlds.hands.tasks import PICK_CUP, PUSH_BALL_LEFT, Instruction, of_scene
from worldcompass.worlds.hands.watching import PixelWatch, TruthWatch
from worldcompass.worlds.hands.world import HandsWorld

TASKS: Mapping[str, Instruction] = {"pick": PICK_CUP, "push": PUSH_BALL_LEFT}
ENGINE, PIXELS, BASE, TRAINED = "engine", "pixels", "base", "trained"
"""The engine by its truth, the engine by pixels, and world models by pixels."""
LATENTS = 24  # of an episode; the script needs 8 to 16
ROWS = 24  # episodes of a world model at once

Done = tuple[int | None, ...]
"""Per scene: latents after which the instruction was done, or None."""


@dataclass(frozen=True)
class Block:
    """One policy on one task, in one place."""

    side: str
    task: str
    policy: Policy

    def file(self, folder: Path) -> Path:
        """Where its outcomes lie."""
        return folder / f"{self.side}_{self.task}_{self.policy.name.replace(' ', '_')}.json"


@dataclass(frozen=True)
class Scenes:
    """The scenes of each task, with their start pictures; numbered from the split's first that allows the task."""

    split: str
    by_task: Mapping[str, tuple[SceneStart, ...]]

    @staticmethod
    def draw(split: str, count: int) -> Scenes:
        """``count`` scenes for every task.

        Raises:
            UserError: for an unknown split, one without enough such scenes, or where the engine cannot draw.
        """
        with Engine() as engine:
            found = {task: _fitting(engine, split, wanted, count) for task, wanted in TASKS.items()}
        return Scenes(split, found)

    def names(self, task: str) -> list[str]:
        """Of the scenes of a task."""
        return [start.scene.name for start in self.by_task[task]]


def _fitting(engine: Engine, split: str, wanted: Instruction, count: int) -> tuple[SceneStart, ...]:
    starts: list[SceneStart] = []
    for number in range(20 * count + 20):
        one = scene(split, number)
        if len(starts) < count and of_scene(one, wanted) is not None:
            starts.append(SceneStart(one, draw_start(engine, one)))
    if len(starts) < count:
        raise UserError(f"the split {split} has too few scenes to {wanted}: found {len(starts)} of {count}")
    return tuple(starts)


@dataclass(frozen=True)
class Trials:
    """Everything that is tried, and the folder of outcomes."""

    folder: Path
    scenes: Scenes
    worlds: Mapping[str, HandsWorld]
    """``BASE``, and ``TRAINED`` where there is one."""
    seeds: tuple[int, ...] = (0,)
    """Of the world models' noise."""
    policies: tuple[Policy, ...] = field(default_factory=lambda: POLICIES)
    table: Table = field(default_factory=Table)

    def blocks(self) -> list[Block]:
        """All blocks, the engine's first."""
        sides = (ENGINE, *self.worlds)
        return [Block(side, task, policy) for side in sides for task in TASKS for policy in self.policies]

    def run(self, on_block: Callable[[], None] = lambda: None) -> None:
        """Run the blocks that have no file yet."""
        for block in self.blocks():
            if not (path := block.file(self.folder)).is_file():
                write_json(path, self._outcomes(block))
            on_block()

    def _outcomes(self, block: Block) -> dict[str, object]:
        """A block's file: outcomes per scene of each way of judging, and per seed in a world model."""
        names = self.scenes.names(block.task)
        if block.side == ENGINE:
            pairs = [in_engine(self.table, block, start) for start in self.scenes.by_task[block.task]]
            truth, pixels = zip(*pairs, strict=True)
            return {"scenes": names, ENGINE: [truth], PIXELS: [pixels]}
        starts, world = self.scenes.by_task[block.task], self.worlds[block.side]
        return {
            "scenes": names,
            block.side: [
                [
                    outcome
                    for row in range(0, len(starts), ROWS)
                    for outcome in in_world(world, block, starts[row : row + ROWS], seed)
                ]
                for seed in self.seeds
            ],
        }

    def read(self, side: str, task: str, policy: Policy) -> np.ndarray:
        """Whether it was done, float64 (seeds, scenes).

        Raises:
            UserError: when the block's file is damaged or is of other scenes.
        """
        path = Block(ENGINE if side == PIXELS else side, task, policy).file(self.folder)
        stored = read_object(path, "outcomes of a policy")
        if stored.get("scenes") != self.scenes.names(task) or side not in stored:
            raise UserError(f"{path} holds outcomes in other scenes: delete it, it is made again")
        return np.array([[since is not None for since in row] for row in stored[side]], float)


def actor_of(block: Block, start: SceneStart) -> tuple[Instruction, Actor]:
    """The task in a scene and the policy's actor; what it draws is the same in engine and world."""
    task = of_scene(start.scene, TASKS[block.task])
    assert task is not None  # the scenes were chosen so
    rng = np.random.default_rng(seed_of("policy", block.policy.name, block.task, start.scene.name))
    return task, block.policy.begin(start, task, rng)


def in_engine(table: Table, block: Block, start: SceneStart) -> tuple[int | None, int | None]:
    """An episode in the engine: when it was done by truth, and when by pixels."""
    task, actor = actor_of(block, start)
    place = table.begin(start.scene)
    truth = TruthWatch.start(start.scene, (task,))
    pixels = PixelWatch.start(start.scene, start.image_3hw, (task,))
    for _ in range(LATENTS):
        controls = actor(place.frames_F3hw.movedim(1, -1).numpy())
        place = place.go(controls)
        truth, pixels = truth.after(place.look), pixels.after(controls, place.frames_F3hw[-1])
        if task in truth.done and task in pixels.done:
            break
    return dict(truth.done.since).get(task), dict(pixels.done.since).get(task)


def in_world(world: HandsWorld, block: Block, starts: Sequence[SceneStart], seed: int) -> Done:
    """Episodes in a world model, one a scene, in one batch: when pixels say that it was done."""
    tasks, actors = zip(*(actor_of(block, start) for start in starts), strict=True)
    watches = [PixelWatch.start(s.scene, s.image_3hw, (t,)) for s, t in zip(starts, tasks, strict=True)]
    walk = start_walk(world, [scenario_of(start) for start in starts], seed)
    for _ in range(LATENTS):
        frames = walk.frames_PF3hw.movedim(2, -1).cpu().numpy()
        controls = [actor(shown) for actor, shown in zip(actors, frames, strict=True)]
        walk = walk.step(ACTIONS.hold(torch.as_tensor(np.stack(controls))[:, None]))
        last = walk.frames_PF3hw[:, -1]
        watches = [w.after(c, frame) for w, c, frame in zip(watches, controls, last, strict=True)]
    return tuple(dict(watch.done.since).get(task) for watch, task in zip(watches, tasks, strict=True))
