"""What the player shows side by side: world models, and an engine where there is one; all take the same actions.

A ``Place`` is a value: a step gives a new one, so that rewinding is going on from an older one. What only the step
after it needs is left for ``settle``, when its pictures are on their way already.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from worldcompass.player.starts import Start
from worldcompass.types import Scenario
from worldcompass.walk import Imagined, Walk, start_walk
from worldcompass.world import WorldModel


class Place(Protocol):
    """Where a walk stands."""

    @property
    def frames_F3hw(self) -> Tensor:
        """uint8 frames of the last step; of a beginning, the start image alone."""
        ...

    @property
    def composites_M(self) -> tuple[int, ...]:
        """What was carried out so far, the start's 0 first."""
        ...

    def step(self, composite: int) -> Self:
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


def one_thread() -> ThreadPoolExecutor:
    """A worker for one pane."""
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
    def composites_M(self) -> tuple[int, ...]:
        """See ``Place``."""
        space = self.reached.world.spec.actions
        return tuple(space.composites(self.reached.actions)[0].tolist())

    def step(self, composite: int) -> WorldPlace:
        """See ``Place``."""
        walk = self._walk()
        return WorldPlace(walk.imagine(walk.of([composite])))

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
    worker: ThreadPoolExecutor = field(default_factory=one_thread)

    def begin(self, start: Start, seed: int) -> WorldPlace:
        """See ``Pane``. The noise depends on the seed and the start's id, so it is the same in every pane."""
        actions = self.world.spec.actions.commanded(torch.zeros(1, dtype=torch.long))
        scenario = Scenario(start.id, actions, start.image_3hw)
        return WorldPlace(start_walk(self.world, [scenario], seed, self.num_steps))

    def close(self) -> None:
        """See ``Pane``."""
        self.worker.shutdown(cancel_futures=True)
