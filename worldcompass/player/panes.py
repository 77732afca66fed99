"""The panes of the player: world models, and an engine if there is one; all take the same actions.

A ``Place`` is a value. A step returns a new one, so a rewind continues from an older one. ``settle`` prepares the
next step while the pictures of the last one are sent.
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
    """The state of a walk after a step."""

    @property
    def frames_F3hw(self) -> Tensor:
        """uint8 frames of the last step; at the start, the start image alone."""
        ...

    @property
    def composites_M(self) -> tuple[int, ...]:
        """The actions so far, with the start's 0 first."""
        ...

    def step(self, composite: int) -> Self:
        """The place after one more step, with finished pictures."""
        ...

    def settle(self) -> Self:
        """The same place, prepared for a step. A step settles an unsettled place first."""
        ...


class Pane(Protocol):
    """One picture of the player. Its own worker thread computes its walks one after another."""

    @property
    def name(self) -> str:
        """The title above the picture."""
        ...

    @property
    def worker(self) -> ThreadPoolExecutor:
        """An executor with one thread."""
        ...

    @property
    def real(self) -> bool:
        """Whether it shows the truth, with which the other panes are compared."""
        ...

    def begin(self, start: Start, seed: int) -> Place | None:
        """The place at a start; None for a start that this pane cannot show."""
        ...

    def close(self) -> None:
        """Stop the worker after its current computation."""
        ...


def one_thread() -> ThreadPoolExecutor:
    """A new worker for one pane."""
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
    """A world model that starts from a picture."""

    name: str
    world: WorldModel[Any]
    num_steps: int | None = None
    """Denoising steps; those of the world's way ``play`` when None."""
    worker: ThreadPoolExecutor = field(default_factory=one_thread)
    real: bool = False

    def begin(self, start: Start, seed: int) -> WorldPlace:
        """See ``Pane``. The noise depends on the seed and the start's id, so it is the same in every pane."""
        actions = self.world.spec.actions.commanded(torch.zeros(1, dtype=torch.long))
        scenario = Scenario(start.id, actions, start.image_3hw)
        return WorldPlace(start_walk(self.world, [scenario], seed, self.num_steps))

    def close(self) -> None:
        """See ``Pane``."""
        self.worker.shutdown(cancel_futures=True)
