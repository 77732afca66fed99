"""Gymnasium environments with a world model as the simulator.

``gymnasium.make("worldcompass/Doom-v0")`` makes the embedded world; ``WorldEnv`` and ``WorldVectorEnv`` accept any.
One step holds one action for one chunk of the world's way ``play``, in most worlds one latent of 4 frames. The
action space derives from the world's ``spec.actions``, see ``gym_space``. Episodes never terminate; they are
truncated after ``max_steps``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldcompass.actions import ActionSpace, CameraActions, misfit
from worldcompass.controls import Axis, Controls
from worldcompass.critic import Critic, ask
from worldcompass.errors import UnfitInputs
from worldcompass.geometry import NUM_ROTATIONS, NUM_TRANSLATIONS, label
from worldcompass.types import Actions, Group, Scenario
from worldcompass.walk import Walk, start_walk
from worldcompass.ways import PLAY
from worldcompass.world import WorldModel, WorldSpec

Reward = Critic | Callable[[Tensor, Actions], float]
"""A critic, or a function of a step's frames, uint8 (F, 3, h, w), and its actions, K latents."""

Observes = Literal["step", "last"]
"""What an observation holds: every frame of a step, or the last one alone, as most agents of pictures expect."""

MAX_STEPS = 64
WINDOW = 640  # pixels across of the window for people


@dataclass(frozen=True)
class Episode:
    """P episodes that started together; ``save_state`` stores it with the random generators."""

    walk: Walk
    past: tuple[Tensor, ...] = ()
    """uint8 (P, F, 3, h, w) of every earlier step, joined only for a critic, as the copy grows with the episode."""
    steps: int = 0

    def step(self, coming: Actions) -> Episode:
        """The episodes after one more action each, (P, 1)."""
        return Episode(self.walk.step(coming), (*self.past, self.walk.frames_PF3hw), self.steps + 1)

    def observations(self, frames: int) -> np.ndarray:
        """The last ``frames`` frames, uint8 (P, F, h, w, 3); a single start image is repeated."""
        return observed(self.walk.frames_PF3hw, frames)

    def rewards(self, reward: Reward | None) -> tuple[np.ndarray, np.ndarray]:
        """Rewards of the last step, float64 (P,), and their validity; 0 where the critic abstains."""
        walks = len(self.walk.row_keys)
        values, valid = np.zeros(walks), np.ones(walks, bool)
        if reward is None:
            return values, valid
        for row in range(walks):
            if isinstance(reward, Critic):
                scores = ask(reward, self._group(row))
                valid[row] = bool(scores.valid_G[0])
                values[row] = float(scores.values_G[0]) if valid[row] else 0.0
            else:
                values[row] = float(reward(self.walk.frames_PF3hw[row], self._last(row)))
        return values, valid

    def _last(self, row: int) -> Actions:
        """Actions of the last step of one episode."""
        done = len(self.walk.actions)
        return self.walk.actions.select(row).latents(max(0, done - self.walk.chunk_length), done)

    def _group(self, row: int) -> Group:
        past = torch.cat([frames_PF3hw[row] for frames_PF3hw in self.past])
        per_latent = self.walk.world.spec.frames_per_latent
        return Group(self.walk.frames_PF3hw[row, None], past, past[0], self._last(row), per_latent)

    def infos(self) -> dict[str, np.ndarray]:
        """The executed actions, one row per episode; for a camera with the nominal pose."""
        last = self.walk.actions.latents(len(self.walk.actions) - 1, len(self.walk.actions))
        if isinstance(self.walk.world.spec.actions, CameraActions):
            moves = last.cameras
            poses = moves.world_from_camera_K44[:, 0].numpy()
            return {"label": moves.labels_K[:, 0].numpy(), "world_from_camera": poses}
        return {"controls": last.controls.values_KTA[:, 0, -1].numpy()}


def observed(frames_PF3hw: Tensor, count: int) -> np.ndarray:
    """The last frames as observations, uint8 (P, F, h, w, 3); a single start image is repeated."""
    shown = frames_PF3hw[:, -count:]
    missing = count - shown.shape[1]
    shown = torch.cat([shown[:, :1].expand(-1, missing, -1, -1, -1), shown], 1)
    return shown.movedim(2, -1).cpu().numpy()


@dataclass(frozen=True)
class Simulator:
    """The shared parts of both environments: a world, starts and a reward."""

    world: WorldModel[Any]
    starts: Sequence[Scenario]
    reward: Reward | None = None
    num_steps: int | None = None
    max_steps: int = MAX_STEPS
    observes: Observes = "step"

    def __post_init__(self) -> None:
        if self.observes not in get_args(Observes):
            raise ValueError(f"observes is {self.observes!r}, expected step or last")
        if self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}, expected 1 or more")
        if not self.starts:
            raise ValueError("an environment needs at least one scenario to start from, got none")
        if isinstance(self.reward, Critic) and (why := misfit(self.reward, self.world.spec.actions)):
            raise ValueError(f"the critic {self.reward.name} {why}: choose another reward")

    @property
    def frames(self) -> int:
        """Frames of a step."""
        return frames_of_step(self.world.spec)

    @property
    def observation_space(self) -> spaces.Box:
        """See ``picture_space``."""
        return picture_space(self.world.spec, self.observes)

    def observations(self, episode: Episode) -> np.ndarray:
        """One observation for each of P episodes, each as in ``observation_space``."""
        return (
            episode.observations(1)[:, -1] if self.observes == "last" else episode.observations(self.frames)
        )

    @property
    def action_space(self) -> spaces.Space[Any]:
        """See ``gym_space``."""
        return gym_space(self.world.spec.actions)

    def begin(self, generators: Sequence[np.random.Generator], start: int | None = None) -> Episode:
        """Start an episode per generator, which draws the noise, and the start when ``start`` is None.

        Raises:
            ValueError: when ``start`` is not the index of a start.
        """
        if start is not None and start not in range(len(self.starts)):
            raise ValueError(f"start is {start!r}, expected 0 to {len(self.starts) - 1}")
        chosen = [int(g.integers(len(self.starts))) if start is None else start for g in generators]
        seeds = [int(g.integers(2**31)) for g in generators]
        walk = start_walk(self.world, [self.starts[i] for i in chosen], seeds, self.num_steps)
        return Episode(walk)


def start_of(options: Mapping[str, Any] | None) -> Any:
    """The start that a reset's options choose, unchecked; None without one. A ``ValueError`` for other options."""
    if unknown := sorted(set(options or {}) - {"start"}):
        raise ValueError(f"there is no option {', '.join(unknown)}: expected start, the number of a start")
    return (options or {}).get("start")


def frames_of_step(spec: WorldSpec) -> int:
    """Frames of one step, in the way ``play``."""
    return spec.ways[PLAY].chunk_length * spec.frames_per_latent


def picture_space(spec: WorldSpec, observes: Observes = "step") -> spaces.Box:
    """uint8 (F, h, w, 3), the frames of one step, oldest first; or (h, w, 3), the last one alone."""
    size = (*spec.frame_size, 3)
    return spaces.Box(0, 255, size if observes == "last" else (frames_of_step(spec), *size), np.uint8)


def gym_space(space: ActionSpace) -> spaces.Space[Any]:
    """The Gymnasium space of an action space.

    A camera has a translation and a rotation class, in the order of ``worldcompass.actions``. Controls have a box
    if all are continuous, levels if all have levels, 0 or 1 if all are buttons, and a dictionary of such parts if
    their kinds differ.
    """
    if not isinstance(space, Controls):
        return spaces.MultiDiscrete([NUM_TRANSLATIONS, NUM_ROTATIONS])
    parts: dict[str, spaces.Space[Any]] = {}
    for name, axes in _parts(space).items():
        if name == "continuous":
            low, high = (
                np.array([getattr(axis, end) for axis in axes], np.float32) for end in ("low", "high")
            )
            parts[name] = spaces.Box(low, high, dtype=np.float32)
        elif name == "buttons":
            parts[name] = spaces.MultiBinary(len(axes))
        else:
            parts[name] = spaces.MultiDiscrete([axis.levels or 0 for axis in axes])
    return spaces.Dict(parts) if len(parts) > 1 else next(iter(parts.values()))


def actions_of(space: ActionSpace, given: Any, walk: Walk) -> Actions:
    """The actions (P, 1) of P elements of ``gym_space``.

    Raises:
        ValueError: when they are not one element per walk.
    """
    walks = len(walk.row_keys)
    if not isinstance(space, Controls):
        return walk.of(_labels_of(given, walks))
    parts, values = _parts(space), {}
    if len(parts) > 1 and not (isinstance(given, Mapping) and set(given) == set(parts)):
        raise ValueError(f"expected a dictionary of {', '.join(parts)}, got {type(given).__name__}")
    for name, axes in parts.items():
        own = np.asarray(given[name] if len(parts) > 1 else given)
        whole = name == "continuous" or own.dtype.kind in "iub"
        if own.shape != (walks, len(axes)) or not whole or own.dtype.kind not in "iubf":
            kind = "numbers" if name == "continuous" else "whole numbers"
            raise ValueError(
                f"expected {len(axes)} {kind} for each of {walks} walk{'s' * (walks > 1)}"
                f" ({', '.join(axis.name for axis in axes)}), got {own.tolist()}"
            )
        for axis, column in zip(axes, own.T, strict=True):
            scale = 1.0 if axis.levels is None else (axis.high - axis.low) / (axis.levels - 1)
            values[axis.name] = (0.0 if axis.levels is None else axis.low) + scale * column.astype(np.float64)
    columns = [torch.as_tensor(values[name]) for name in space.axes]
    return space.hold(torch.stack(columns, -1)[:, None])


def _parts(space: Controls) -> dict[str, list[Axis]]:
    """The controls by kind: continuous, buttons or levels; in their order."""
    kinds = [
        "continuous" if axis.levels is None else "buttons" if axis.levels == 2 else "levels"
        for axis in space.controls
    ]
    return {
        kind: [axis for axis, own in zip(space.controls, kinds, strict=True) if own == kind]
        for kind in dict.fromkeys(kinds)
    }


def _labels_of(given: Any, walks: int) -> list[int]:
    pairs_P2 = np.asarray(given)
    whole = pairs_P2.shape == (walks, 2) and pairs_P2.dtype.kind in "iu"
    if not (whole and (pairs_P2 >= 0).all() and (pairs_P2 < (NUM_TRANSLATIONS, NUM_ROTATIONS)).all()):
        raise ValueError(
            f"expected {walks} pair{'s' * (walks > 1)} of a translation, 0 to {NUM_TRANSLATIONS - 1}, and a"
            f" rotation, 0 to {NUM_ROTATIONS - 1}, in whole numbers; got {pairs_P2.tolist()}"
        )
    return [label(int(translation), int(rotation)) for translation, rotation in pairs_P2]


class WorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment of one agent in any world model; the module's docstring defines a step."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "rgb_array_list", "human"]}  # noqa: RUF012 (as the base class has it)

    def __init__(
        self,
        world: WorldModel[Any],
        starts: Sequence[Scenario],
        *,
        reward: Reward | None = None,
        max_steps: int = MAX_STEPS,
        num_steps: int | None = None,
        render_mode: str | None = None,
        observes: Observes = "step",
    ) -> None:
        """Make the environment.

        Args:
            world: any adapter that passes ``check_world_model``.
            starts: scenarios whose start images start the episodes; their commands are not used.
            reward: of every step; 0 when None.
            max_steps: steps until truncation.
            num_steps: denoising steps; those of the world's way ``play`` when None.
            render_mode: ``rgb_array``, ``rgb_array_list``, ``human`` or None.
            observes: ``step``, or ``last`` for an observation (h, w, 3).
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode is {render_mode!r}, expected rgb_array, rgb_array_list, human or None"
            )
        self.simulator = Simulator(world, starts, reward, num_steps, max_steps, observes)
        self.observation_space = self.simulator.observation_space
        self.action_space = self.simulator.action_space
        # Pictures per second of what ``render`` returns, which is one picture per step for ``rgb_array``.
        per_step = self.simulator.frames if render_mode == "rgb_array" else 1
        self.metadata = {**self.metadata, "render_fps": world.spec.fps / per_step}
        self.render_mode = render_mode
        self._episode: Episode | None = None
        self._window: Any = None
        self._unseen: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options={"start": i}`` chooses the scenario."""
        super().reset(seed=None if seed is None else operator.index(seed))
        self._episode = self.simulator.begin([self.np_random], start_of(options))
        self._unseen = []
        self._shown(1)
        return self.simulator.observations(self._episode)[0], self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold an action for one step.

        Raises:
            ValueError: for an action outside the action space.
        """
        episode = self._running()
        one = (
            {name: part[None] for name, part in action.items()}
            if isinstance(action, dict)
            else np.asarray(action)[None]
        )
        coming = actions_of(self.simulator.world.spec.actions, one, episode.walk)
        self._episode = episode.step(coming)
        rewards, valid = self._episode.rewards(self.simulator.reward)
        self._shown(self.simulator.frames)
        observation = self.simulator.observations(self._episode)[0]
        truncated = self._episode.steps >= self.simulator.max_steps
        return observation, float(rewards[0]), False, truncated, {**self._info(), "scored": bool(valid[0])}

    def save_state(self) -> Any:
        """The current state with the random generator; immutable and cheap, as it shares structure."""
        return self._running(), self.np_random.bit_generator.state

    def restore_state(self, state: Any) -> np.ndarray:
        """Restore a saved state of this environment, any number of times, and return its observation."""
        self._episode, self.np_random.bit_generator.state = state
        return self.simulator.observations(self._running())[0]

    def _shown(self, frames: int) -> None:
        """Show or keep the new frames, as the mode of rendering says."""
        if self.render_mode == "human":
            self.render()
        elif self.render_mode == "rgb_array_list":
            self._unseen += list(self._running().observations(frames)[0])

    def render(self) -> np.ndarray | list[np.ndarray] | None:  # type: ignore[override]
        """Return the last frame (h, w, 3) for ``rgb_array``, and all frames since the last call for a list.

        ``human`` shows the last step's frames in a window.
        """
        if self.render_mode == "rgb_array_list":
            unseen, self._unseen = self._unseen, []
            return unseen
        picture = self._running().observations(1)[0, -1]
        if self.render_mode == "human":
            self._window = self._window or Window(picture.shape, self.simulator.world.spec.fps)
            for frame in self._running().observations(self.simulator.frames)[0]:
                self._window.show(frame)
            return None
        return picture

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _info(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self._running().infos().items()}

    def _running(self) -> Episode:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset() first: no episode has begun")
        return self._episode


class WorldVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Parallel agents in one batch of the model; row i equals a ``WorldEnv`` with the seed ``seed + i``.

    All episodes start and are truncated together; the step after that starts new ones
    (``AutoresetMode.NEXT_STEP``).
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": ["rgb_array"]}  # noqa: RUF012 (as the base class has it)

    def __init__(
        self,
        world: WorldModel[Any],
        starts: Sequence[Scenario],
        num_envs: int,
        *,
        reward: Reward | None = None,
        max_steps: int = MAX_STEPS,
        num_steps: int | None = None,
        render_mode: str | None = None,
        observes: Observes = "step",
    ) -> None:
        """See ``WorldEnv``; ``render_mode`` is ``rgb_array`` or None.

        Raises:
            ValueError: for another ``render_mode``, or when the world holds one past at a time; use
                ``gymnasium.vector.SyncVectorEnv`` for it.
        """
        if not world.spec.batches_pasts:
            raise ValueError(
                f"{world.spec.name} holds one past at a time: use gymnasium.vector.SyncVectorEnv"
            )
        check_rows(num_envs)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}, expected rgb_array or None")
        self.simulator = Simulator(world, starts, reward, num_steps, max_steps, observes)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": world.spec.fps / self.simulator.frames}
        self.num_envs = num_envs
        self.single_observation_space = self.simulator.observation_space
        self.single_action_space = self.simulator.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._episode: Episode | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes; an integer seeds row i with ``seed + i``.

        Raises:
            ValueError: when the seeds are not one per row.
        """
        if seed is not None:
            several = isinstance(seed, Sequence) or (isinstance(seed, np.ndarray) and seed.ndim > 0)
            rows = range(self.num_envs)
            seeds = list(seed) if several else [operator.index(seed) + i for i in rows]  # type: ignore[arg-type]
            if len(seeds) != self.num_envs:
                raise ValueError(
                    f"expected one seed for each of {self.num_envs} environments, got {len(seeds)}"
                )
            self._generators = [np_random(None if s is None else operator.index(s))[0] for s in seeds]
        self._episode = self.simulator.begin(self._generators, start_of(options))
        return self.simulator.observations(self._episode), dict(self._episode.infos())

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """The last frame (h, w, 3) of every row for ``rgb_array``, else None."""
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset() first: no episode has begun")
        return tuple(self._episode.observations(1)[:, -1]) if self.render_mode else None

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold an action per row; after a truncation it is ignored and new episodes start."""
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("call reset() first: no episode has begun")
        over = np.zeros(self.num_envs, bool)
        if self._episode.steps >= self.simulator.max_steps:
            observations, infos = self.reset()
            return observations, np.zeros(self.num_envs), over, over.copy(), infos
        coming = actions_of(self.simulator.world.spec.actions, actions, self._episode.walk)
        self._episode = self._episode.step(coming)
        rewards, valid = self._episode.rewards(self.simulator.reward)
        infos = {**self._episode.infos(), "scored": valid}
        truncated = np.full(self.num_envs, self._episode.steps >= self.simulator.max_steps)
        return self.simulator.observations(self._episode), rewards, over, truncated, infos


def check_rows(num_envs: int) -> None:
    """Check the number of environments of a vector.

    Raises:
        UnfitInputs: for less than one.
    """
    if num_envs < 1:
        raise UnfitInputs(f"num_envs is {num_envs}, expected 1 or more")


class Window:
    """A window for people, through pygame.

    Raises:
        DependencyNotInstalled: without pygame-ce.
    """

    def __init__(self, shape: tuple[int, ...], fps: float) -> None:
        try:
            import pygame
        except ImportError as why:
            raise gymnasium.error.DependencyNotInstalled("render_mode human needs pygame-ce") from why
        self.pygame = pygame
        scale = max(1, WINDOW // shape[1])
        pygame.display.init()
        self.surface = pygame.display.set_mode((shape[1] * scale, shape[0] * scale))
        pygame.display.set_caption("WorldCompass")
        self.clock, self.fps = pygame.time.Clock(), fps

    def show(self, picture_hw3: np.ndarray) -> None:
        """Show a frame (h, w, 3), in time."""
        small = self.pygame.surfarray.make_surface(picture_hw3.swapaxes(0, 1))
        self.pygame.transform.scale(small, self.surface.get_size(), self.surface)
        self.pygame.event.pump()
        self.pygame.display.flip()
        self.clock.tick(self.fps)

    def close(self) -> None:
        """Close it."""
        self.pygame.display.quit()
