"""Tasks of the Hands world as Gymnasium environments: in the world model, and in the engine, with one interface.

A step holds four controls for one latent; the observation is its frames. The reward is 1 at the step that does the
instruction, which ends the episode, and 0 before. The engine says when by its truth, the world model by pixels.
``info`` holds what a policy may know besides the pictures: the scene, and what stood where in it at the start.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, get_args

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor

from worldcompass.env import (
    Observes,
    Window,
    check_rows,
    frames_of_step,
    gym_space,
    observed,
    picture_space,
    start_of,
)
from worldcompass.errors import UserError
from worldcompass.runs.folder import weights_folder
from worldcompass.types import Scenario
from worldcompass.walk import Walk, start_walk
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.place import EnginePlace, Table
from worldcompass.worlds.hands.silhouettes import start_poses
from worldcompass.worlds.hands.splits import scene
from worldcompass.worlds.hands.starts import NUMBERS, SceneStart, draw_start, scene_starts
from worldcompass.worlds.hands.tasks import PICK_CUP, Instruction, of_scene, parse
from worldcompass.worlds.hands.watching import PixelWatch, TruthWatch
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, HandsWorld, load_hands_world

MAX_STEPS = 32  # a grasp takes about 13


class Moment(Protocol):
    """An episode at one moment, as a value."""

    @property
    def frames_F3hw(self) -> Tensor:
        """uint8 frames of the last step; at the start the start picture alone."""
        ...

    def go(self, controls_4: np.ndarray) -> Self:
        """After one more step."""
        ...

    def has_done(self, wanted: Instruction) -> bool:
        """Whether an instruction has been done."""
        ...


class Stage(Protocol):
    """Where episodes take place."""

    def begin(self, start: SceneStart, wanted: Instruction, seed: int) -> Moment:
        """The start of a scene; the seed is of what the stage draws."""
        ...


@dataclass(frozen=True)
class Imagined:
    """A moment in the world model, watched by pixels."""

    walk: Walk
    watch: PixelWatch

    @property
    def frames_F3hw(self) -> Tensor:
        """See ``Moment``; on the CPU."""
        return self.walk.frames_PF3hw[0].cpu()

    def go(self, controls_4: np.ndarray) -> Imagined:
        """See ``Moment``."""
        walk = self.walk.step(ACTIONS.hold(torch.as_tensor(controls_4)[None, None]))
        return Imagined(walk, self.watch.after(controls_4, walk.frames_PF3hw[0, -1].cpu()))

    def has_done(self, wanted: Instruction) -> bool:
        """See ``Moment``."""
        return wanted in self.watch.done


@dataclass(frozen=True)
class Real:
    """A moment in the engine, watched by its truth."""

    place: EnginePlace
    watch: TruthWatch

    @property
    def frames_F3hw(self) -> Tensor:
        """See ``Moment``."""
        return self.place.frames_F3hw

    def go(self, controls_4: np.ndarray) -> Real:
        """See ``Moment``."""
        place = self.place.go(controls_4)
        return Real(place, self.watch.after(place.look))

    def has_done(self, wanted: Instruction) -> bool:
        """See ``Moment``."""
        return wanted in self.watch.done


@dataclass(frozen=True)
class WorldStage:
    """Episodes in a world model."""

    world: HandsWorld
    num_steps: int | None = None
    """Denoising steps; those of the world's way ``play`` when None."""

    def begin(self, start: SceneStart, wanted: Instruction, seed: int) -> Imagined:
        """See ``Stage``."""
        walk = start_walk(self.world, [scenario_of(start)], seed, self.num_steps)
        return Imagined(walk, PixelWatch.start(start.scene, start.image_3hw, (wanted,)))


@dataclass(frozen=True)
class EngineStage:
    """Episodes in the engine, in which nothing is random."""

    table: Table

    def begin(self, start: SceneStart, wanted: Instruction, seed: int) -> Real:
        """See ``Stage``."""
        return Real(self.table.begin(start.scene), TruthWatch.start(start.scene, (wanted,)))


def scenario_of(start: SceneStart) -> Scenario:
    """A start for the world model, without commands."""
    return Scenario(start.scene.name, ACTIONS.commanded(torch.zeros(1, dtype=torch.long)), start.image_3hw)


class HandsEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task over many scenes; the module's docstring defines step, reward and end.

    Args:
        stage: where it takes place.
        starts: scenes to draw from; those in which the task makes no sense are left out.
        wanted: the task, with or without a colour.
        max_steps: steps until truncation.
        render_mode: ``rgb_array``, ``rgb_array_list``, ``human`` or None.
        observes: every frame of a step, or the last one alone.

    Raises:
        UserError: when no scene has what the task needs.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "rgb_array_list", "human"]}  # noqa: RUF012 (as the base class has it)

    def __init__(
        self,
        stage: Stage,
        starts: Sequence[SceneStart],
        wanted: Instruction = PICK_CUP,
        *,
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
        observes: Observes = "step",
    ) -> None:
        if observes not in get_args(Observes):
            raise UserError(f"observes is {observes!r}, expected step or last")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(
                f"render_mode is {render_mode!r}, expected rgb_array, rgb_array_list, human or None"
            )
        if max_steps < 1:
            raise UserError(f"max_steps is {max_steps}, expected 1 or more")
        self.stage, self.wanted, self.max_steps, self.render_mode = stage, wanted, max_steps, render_mode
        self.starts = [start for start in starts if of_scene(start.scene, wanted) is not None]
        if not self.starts:
            raise UserError(
                f"none of {len(starts)} scenes lets anybody {wanted}: choose others, or another task"
            )
        # Pictures per second of what ``render`` returns, which is one picture per step for ``rgb_array``.
        per_step = frames_of_step(SPEC) if render_mode == "rgb_array" else 1
        self.metadata = {**self.metadata, "render_fps": SPEC.fps / per_step}
        self.observes: Observes = observes
        self.observation_space = picture_space(SPEC, observes)
        self.action_space = gym_space(ACTIONS)
        self._now: _Now | None = None
        self._window: Any = None
        self._unseen: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options={"start": i}`` chooses among ``starts``.

        Raises:
            ValueError: when it is not the index of a start.
        """
        super().reset(seed=None if seed is None else operator.index(seed))
        index = start_of(options)
        if index is not None and index not in range(len(self.starts)):
            raise ValueError(f"start is {index!r}, expected 0 to {len(self.starts) - 1}")
        start = self.starts[int(self.np_random.integers(len(self.starts))) if index is None else index]
        task = of_scene(start.scene, self.wanted)
        assert task is not None  # __init__ left out the others
        moment = self.stage.begin(start, task, int(self.np_random.integers(2**31)))
        self._now = _Now(start, task, moment)
        self._unseen = []
        self._shown(1)
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold controls (x, y, z, opening) in [-1, 1] for one latent.

        Raises:
            ValueError: for an action outside the action space.
        """
        now = self._running()
        controls = np.asarray(action, np.float64)
        if controls.shape != (4,) or not (np.abs(controls) <= 1).all():
            raise ValueError(f"expected 4 controls ({', '.join(ACTIONS.axes)}) from -1 to 1, got {action!r}")
        self._now = now = replace(now, moment=now.moment.go(controls), steps=now.steps + 1)
        self._shown(frames_of_step(SPEC))
        done = now.moment.has_done(now.task)
        return self._observation(), float(done), done, now.steps >= self.max_steps, self._info()

    def save_state(self) -> Any:
        """The current state with the random generator; immutable."""
        return self._running(), self.np_random.bit_generator.state

    def restore_state(self, state: Any) -> np.ndarray:
        """Restore a saved state of this environment, any number of times, and return its observation."""
        self._now, self.np_random.bit_generator.state = state
        return self._observation()

    def render(self) -> np.ndarray | list[np.ndarray] | None:  # type: ignore[override]
        """The last frame (h, w, 3) for ``rgb_array``, and all frames since the last call for a list.

        In the mode ``human`` steps show themselves.
        """
        if self.render_mode == "rgb_array_list":
            unseen, self._unseen = self._unseen, []
            return unseen
        return self._frames()[-1] if self.render_mode == "rgb_array" else self._show()

    def close(self) -> None:
        """Close the window, and the engine if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None
        if isinstance(self.stage, EngineStage):
            self.stage.table.close()

    def _observation(self) -> np.ndarray:
        return self._frames()[-1] if self.observes == "last" else self._frames()

    def _frames(self) -> np.ndarray:
        return observed(self._running().moment.frames_F3hw[None], frames_of_step(SPEC))[0]

    def _info(self) -> dict[str, Any]:
        now = self._running()
        grip = np.array(now.start.scene.gripper, np.float32)
        return {
            "scene": now.start.scene.name,
            "instruction": str(now.task),
            "start_gripper": grip,
            "start_things": start_poses(now.start.scene).astype(np.float32),
        }

    def _shown(self, frames: int) -> None:
        """Show or keep the new frames, as the mode of rendering says."""
        self._show()
        if self.render_mode == "rgb_array_list":
            self._unseen += list(self._frames()[-frames:])

    def _show(self) -> None:
        if self.render_mode == "human":
            frames = self._frames()
            self._window = self._window or Window(frames.shape[1:], SPEC.fps)
            for frame in frames:
                self._window.show(frame)

    def _running(self) -> _Now:
        if self._now is None:
            raise gymnasium.error.ResetNeeded("call reset() first: no episode has begun")
        return self._now


@dataclass(frozen=True)
class _Now:
    start: SceneStart
    task: Instruction
    moment: Moment
    steps: int = 0


def make_hands(
    instruction: str = str(PICK_CUP),
    weights: str | Path | None = None,
    split: str = "heldout",
    numbers: Sequence[int] = NUMBERS,
    max_steps: int = MAX_STEPS,
    num_steps: int | None = None,
    render_mode: str | None = None,
    observes: Observes = "step",
    device: str = "cpu",
) -> HandsEnv:
    """What ``gymnasium.make("worldcompass/Hands-v0")`` calls: tasks in the world model.

    Args:
        instruction: see ``tasks.parse``; without a colour it means the scene's one thing of the kind.
        weights: folder of a finished run or of weights, such as ``runs/mine``; the package's own when None.
        split: of the scenes, see ``splits``.
        numbers: of the scenes; the package holds the default ones, the engine draws all others.
        max_steps: see ``HandsEnv``, as are ``render_mode`` and ``observes``.
        num_steps: denoising steps; those of the world's way ``play`` when None.
        device: of PyTorch, such as ``cuda``; observations are NumPy arrays on any.

    Raises:
        UserError: for an unknown instruction or split, weights that do not fit, or scenes that nothing draws here.
    """
    wanted = parse(instruction)
    starts = starts_of(split, numbers)
    folder = None if weights is None else weights_folder(Path(weights), WEIGHTS.net)
    world = load_hands_world(folder, device)
    return HandsEnv(
        WorldStage(world, num_steps),
        starts,
        wanted,
        max_steps=max_steps,
        render_mode=render_mode,
        observes=observes,
    )


def make_hands_engine(
    instruction: str = str(PICK_CUP),
    split: str = "heldout",
    numbers: Sequence[int] = NUMBERS,
    max_steps: int = MAX_STEPS,
    render_mode: str | None = None,
    observes: Observes = "step",
) -> HandsEnv:
    """What ``gymnasium.make("worldcompass/HandsEngine-v0")`` calls: the tasks in the engine; see ``make_hands``.

    Raises:
        UserError: for an unknown instruction or split, or where the engine cannot draw.
    """
    wanted = parse(instruction)
    starts = starts_of(split, numbers)
    return HandsEnv(
        EngineStage(Table()),
        starts,
        wanted,
        max_steps=max_steps,
        render_mode=render_mode,
        observes=observes,
    )


def make_hands_vector(num_envs: int = 1, **options: Any) -> SyncVectorEnv:
    """What ``gymnasium.make_vec("worldcompass/Hands-v0", vectorization_mode="vector_entry_point")`` calls.

    Episodes end at their own moments, so that each row is an environment of its own; all share one world model.

    Args:
        num_envs: rows.
        options: see ``make_hands``.

    Raises:
        UserError: for less than one row; see ``make_hands``.
    """
    check_rows(num_envs)
    return _rows(make_hands(**options), num_envs)


def make_hands_engine_vector(num_envs: int = 1, **options: Any) -> SyncVectorEnv:
    """What ``make_vec("worldcompass/HandsEngine-v0", ...)`` calls; see ``make_hands_vector``.

    All rows share one engine, which is set to each row's moment before its step.

    Args:
        num_envs: rows.
        options: see ``make_hands_engine``.

    Raises:
        UserError: for less than one row; see ``make_hands_engine``.
    """
    check_rows(num_envs)
    return _rows(make_hands_engine(**options), num_envs)


def _rows(first: HandsEnv, num_envs: int) -> SyncVectorEnv:
    """Environments like the first one on its own stage."""

    def another() -> HandsEnv:
        return HandsEnv(
            first.stage,
            first.starts,
            first.wanted,
            max_steps=first.max_steps,
            render_mode=first.render_mode,
            observes=first.observes,
        )

    return SyncVectorEnv([lambda: first, *[another] * (num_envs - 1)])


def starts_of(split: str, numbers: Sequence[int]) -> list[SceneStart]:
    """Scenes with their pictures: out of the package, or drawn by the engine.

    Raises:
        UserError: for an unknown split or number, or where the engine is needed and cannot draw.
    """
    if split == "heldout" and set(numbers) <= set(NUMBERS):
        return scene_starts(numbers)
    with Engine() as engine:
        return [SceneStart(one, draw_start(engine, one)) for one in (scene(split, n) for n in numbers)]
