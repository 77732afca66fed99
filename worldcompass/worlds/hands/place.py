"""A moment of the engine as a value: stepping returns a new one, and an older one can be continued from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.engine import Engine, Moment, Steps
from worldcompass.worlds.hands.scripts import Look
from worldcompass.worlds.hands.splits import Scene


class Table:
    """An engine with the moment at which it stands, so that going on needs no restoring."""

    def __init__(self, draw: bool = True) -> None:
        self._engine = Engine(draw=draw)
        self._here: Moment | None = None

    def begin(self, scene: Scene) -> EnginePlace:
        """The start of a scene."""
        return self._stand(self._engine.reset(scene), (0,))

    def go(self, place: EnginePlace, controls_4: np.ndarray) -> EnginePlace:
        """One latent on from any place of any scene."""
        if self._here is not place.moment:
            self._engine.restore(place.moment)
        commanded = ACTIONS.hold(torch.as_tensor(controls_4)[None])
        labels = (*place.composites_M, int(ACTIONS.composites(commanded)[0]))
        return self._stand(self._engine.act(controls_4), labels)

    def _stand(self, steps: Steps, composites_M: tuple[int, ...]) -> EnginePlace:
        self._here = self._engine.save()
        return EnginePlace(self, self._here, steps, composites_M)

    def close(self) -> None:
        """Free the drawing context."""
        self._engine.close()


@dataclass(frozen=True)
class EnginePlace:
    """A place in the real engine; a ``Place`` of the player."""

    table: Table
    moment: Moment
    steps: Steps
    """Of the last latent; of the start, its one frame."""
    composites_M: tuple[int, ...]
    """The actions so far, with the start's 0 first; of continuous controls the nearest ones."""

    @property
    def frames_F3hw(self) -> Tensor:
        """uint8 frames of the last latent."""
        frames = self.steps.frames_Fhw3
        assert frames is not None, "this table draws nothing"
        return torch.from_numpy(frames).movedim(-1, 1).contiguous()

    @property
    def look(self) -> Look:
        """What is true at the last frame."""
        return Look.at_end(self.steps)

    def go(self, controls_4: np.ndarray) -> EnginePlace:
        """One latent on, with four controls in [-1, 1]."""
        return self.table.go(self, controls_4)

    def step(self, composite: int) -> EnginePlace:
        """One latent on, with a composite of ``ACTIONS``."""
        return self.go(ACTIONS.commanded(torch.tensor([composite])).flat_KA[0].double().numpy())

    def settle(self) -> EnginePlace:
        """See the player's ``Place``. Does nothing."""
        return self
