"""The Doom world in the player: its gallery, and a pane with the real engine."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldcompass.player.fittings import Fittings
from worldcompass.player.panes import one_thread
from worldcompass.player.starts import Start
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics
from worldcompass.worlds.doom.engine.engine import Engine, Steps
from worldcompass.worlds.doom.engine.facts import ACTIONS, FRAME_HEIGHT, FRAME_WIDTH
from worldcompass.worlds.doom.engine.maps import TRAINING, UNSEEN, find_map
from worldcompass.worlds.doom.engine.scenarios import Plan, evaluation_plans
from worldcompass.worlds.doom.rewards.interaction import InteractionFollowing
from worldcompass.worlds.doom.rewards.quality import VisualQuality

FIRST_MAP = "health_gathering"  # open ground, where the first steps do not end at a wall
SEEN, UNSEEN_GROUP = "Training maps", "Unseen maps"


def doom_starts() -> Iterator[Start]:
    """The gallery of the embedded world: starts of the evaluation's scenarios, by map.

    Raises:
        UserError: when the engine does not start.
    """
    plans = evaluation_plans()
    for doom_map in (*sorted(TRAINING, key=lambda m: m.name != FIRST_MAP), *UNSEEN):
        group = SEEN if doom_map in TRAINING else UNSEEN_GROUP
        here = [plan for plan in plans if plan.map_name == doom_map.name]
        with Engine(find_map(doom_map.name)) as engine:
            for number, plan in enumerate(_two_of(here), 1):
                frames = engine.reset(plan.seed, plan.place).frames_Fhw3
                image = torch.from_numpy(frames[0]).movedim(-1, 0).contiguous()
                title = f"{doom_map.name.replace('_', ' ')} {number}"
                yield Start(plan.id, title, group, image, plan, plan.labels)


def _two_of(plans: list[Plan]) -> list[Plan]:
    """Plans from the start of the map and from another place."""
    own = [plan for plan in plans if plan.place is None]
    other = [plan for plan in plans if plan.place is not None]
    return own[:1] + other[:1] if own and other else plans[:2]


class _Game:
    """A running engine and its position; closed when no place refers to it."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.engine = plan, Engine(find_map(plan.map_name))
        self.close = weakref.finalize(self, self.engine.__exit__, None, None, None)
        self.composites_M: tuple[int, ...] = ()
        self.frames_F3hw = torch.zeros(1, 3, FRAME_HEIGHT, FRAME_WIDTH, dtype=torch.uint8)

    def go(self, composites_M: tuple[int, ...]) -> Tensor:
        """Frames of the last of these actions; after a rewind the game is replayed from its start."""
        follows = bool(self.composites_M) and self.composites_M == composites_M[:-1]
        if not follows:
            self.frames_F3hw = _pixels(self.engine.reset(self.plan.seed, self.plan.place))
        for label in composites_M[-1:] if follows else composites_M[1:]:
            steps = self.engine.act(label)
            if steps is None:  # the map's script ended the episode, so the last frames stay
                break
            self.frames_F3hw = _pixels(steps)
        self.composites_M = composites_M
        return self.frames_F3hw


def _pixels(steps: Steps) -> Tensor:
    return torch.from_numpy(steps.frames_Fhw3).movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class EnginePlace:
    """A place in the real engine."""

    game: _Game
    composites_M: tuple[int, ...]
    frames_F3hw: Tensor

    def step(self, composite: int) -> EnginePlace:
        """See ``Place``. Pitch is limited as in the world models."""
        past, coming = torch.tensor([self.composites_M]), torch.tensor([composite])
        labels = (*self.composites_M, int(ACTIONS.within(past, coming)))
        return EnginePlace(self.game, labels, self.game.go(labels))

    def settle(self) -> EnginePlace:
        """See ``Place``. Does nothing."""
        return self


def doom_fittings() -> Fittings:
    """Gallery, engine and critics, which know this world's motions and pictures only."""
    nets = load_critics()
    critics = InteractionFollowing(nets.motion), VisualQuality(nets.realism)
    return Fittings(doom_starts, lambda: EnginePane("Engine"), LabelReader(nets.motion).labels, critics)


@dataclass(frozen=True)
class EnginePane:
    """A pane with the real game, for starts from it."""

    name: str
    worker: ThreadPoolExecutor = field(default_factory=one_thread)
    real: bool = True
    _games: weakref.WeakSet[_Game] = field(default_factory=weakref.WeakSet)

    def begin(self, start: Start, seed: int) -> EnginePlace | None:
        """See ``Pane``. The seed is not used, as only the player moves."""
        if not isinstance(start.plan, Plan):
            return None
        game = _Game(start.plan)
        self._games.add(game)
        return EnginePlace(game, (0,), game.go((0,)))

    def close(self) -> None:
        """See ``Pane``. Also ends the games that walks still refer to."""
        self.worker.shutdown(cancel_futures=True)
        for game in self._games:
            game.close()
