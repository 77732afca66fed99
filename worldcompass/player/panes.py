"""What stands side by side in the player: world models, and the real engine; all take the same actions.

A ``Place`` is a value: a step gives a new one, so that rewinding is going on from an older one. What only the step
after it needs is left for ``settle``, when its pictures are on their way already.
"""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from worldcompass.geometry import commanded, within_pitch
from worldcompass.player.starts import Start
from worldcompass.types import Scenario
from worldcompass.walk import Imagined, Walk, start_walk
from worldcompass.world import WorldModel
from worldcompass.worlds.doom.engine.engine import Engine, Steps
from worldcompass.worlds.doom.engine.facts import FRAME_HEIGHT, FRAME_WIDTH, INTRINSICS, MAX_PITCH_DEG, MOTION
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.engine.scenarios import Plan


class Place(Protocol):
    """Where a walk stands."""

    @property
    def frames_F3hw(self) -> Tensor:
        """uint8 frames of the last step; of a beginning, the start image alone."""
        ...

    @property
    def labels_M(self) -> tuple[int, ...]:
        """What was carried out so far, the start's 0 first."""
        ...

    def step(self, label: int) -> Self:
        """The place after one more step; its pictures are finished."""
        ...

    def settle(self) -> Self:
        """The same place, ready for a step. One that is not settled settles in its step."""
        ...


class Pane(Protocol):
    """One picture of the player. Its walks are computed one after another in its own worker thread."""

    @property
    def name(self) -> str:
        """Shown above the picture."""
        ...

    @property
    def worker(self) -> ThreadPoolExecutor:
        """One thread."""
        ...

    def begin(self, start: Start, seed: int) -> Place | None:
        """Stand at a start; None where this pane has nothing to show for it."""
        ...

    def close(self) -> None:
        """End the worker, when what it computes now is finished."""
        ...


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pane")


@dataclass(frozen=True)
class WorldPlace:
    """A place in a world model."""

    reached: Walk | Imagined

    @property
    def frames_F3hw(self) -> Tensor:
        """See ``Place``."""
        return self.reached.frames_PF3hw[0]

    @property
    def labels_M(self) -> tuple[int, ...]:
        """See ``Place``."""
        return tuple(self.reached.labels_PM[0].tolist())

    def step(self, label: int) -> WorldPlace:
        """See ``Place``."""
        return WorldPlace(self._walk().imagine(torch.tensor([label])))

    def settle(self) -> WorldPlace:
        """See ``Place``."""
        return WorldPlace(self._walk())

    def _walk(self) -> Walk:
        return self.reached.remember() if isinstance(self.reached, Imagined) else self.reached


@dataclass(frozen=True)
class WorldPane:
    """A world model: any adapter that begins from a picture."""

    name: str
    world: WorldModel[Any]
    num_steps: int | None = None
    """Denoising steps; the world's default when None."""
    intrinsics_4: Tensor = field(default_factory=lambda: torch.tensor(INTRINSICS))
    worker: ThreadPoolExecutor = field(default_factory=_one_thread)

    def begin(self, start: Start, seed: int) -> WorldPlace:
        """See ``Pane``. The noise depends on the seed and the start's id, so it is the same in every pane."""
        actions = commanded(torch.tensor([0]), self.world.spec.motion, self.intrinsics_4)
        scenario = Scenario(start.id, actions, start.image_3hw)
        return WorldPlace(start_walk(self.world, [scenario], seed, self.num_steps))

    def close(self) -> None:
        """See ``Pane``."""
        self.worker.shutdown(cancel_futures=True)


class _Game:
    """A running engine and where it stands; closed when no place refers to it any more."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.engine = plan, Engine(find_map(plan.map_name))
        self.close = weakref.finalize(self, self.engine.__exit__, None, None, None)
        self.labels_M: tuple[int, ...] = ()
        self.frames_F3hw = torch.zeros(1, 3, FRAME_HEIGHT, FRAME_WIDTH, dtype=torch.uint8)

    def go(self, labels_M: tuple[int, ...]) -> Tensor:
        """Frames of the last of these actions; after a rewind the game is played again from its start."""
        follows = bool(self.labels_M) and self.labels_M == labels_M[:-1]
        if not follows:
            self.frames_F3hw = _pixels(self.engine.reset(self.plan.seed, self.plan.place))
        for label in labels_M[-1:] if follows else labels_M[1:]:
            steps = self.engine.act(label)
            if steps is None:  # the map's script ended the episode: the last picture stays
                break
            self.frames_F3hw = _pixels(steps)
        self.labels_M = labels_M
        return self.frames_F3hw


def _pixels(steps: Steps) -> Tensor:
    return torch.from_numpy(steps.frames_Fhw3).movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class EnginePlace:
    """A place in the real engine."""

    game: _Game
    labels_M: tuple[int, ...]
    frames_F3hw: Tensor

    def step(self, label: int) -> EnginePlace:
        """See ``Place``. Looks up and down no further than the world models do."""
        past, coming = torch.tensor([self.labels_M]), torch.tensor([label])
        labels = (*self.labels_M, int(within_pitch(past, coming, MOTION, MAX_PITCH_DEG)))
        return EnginePlace(self.game, labels, self.game.go(labels))

    def settle(self) -> EnginePlace:
        """See ``Place``. Nothing is left to do."""
        return self


@dataclass(frozen=True)
class EnginePane:
    """The real game, for starts that come from it."""

    name: str
    worker: ThreadPoolExecutor = field(default_factory=_one_thread)
    _games: weakref.WeakSet[_Game] = field(default_factory=weakref.WeakSet)

    def begin(self, start: Start, seed: int) -> EnginePlace | None:
        """See ``Pane``. The seed does not matter: nothing moves but the player."""
        if start.plan is None:
            return None
        game = _Game(start.plan)
        self._games.add(game)
        return EnginePlace(game, (0,), game.go((0,)))

    def close(self) -> None:
        """See ``Pane``. Games that a walk still holds end too."""
        self.worker.shutdown(cancel_futures=True)
        for game in self._games:
            game.close()
