"""The Hands world in the player: its gallery, instructions as goals, and a pane with the real engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from worldcompass.player.fittings import Fittings
from worldcompass.player.panes import Place, one_thread
from worldcompass.player.starts import Start
from worldcompass.worlds.hands.actions import ACTIONS
from worldcompass.worlds.hands.place import EnginePlace, Table
from worldcompass.worlds.hands.recognise import check_scene
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.starts import scene_starts
from worldcompass.worlds.hands.tasks import instructions
from worldcompass.worlds.hands.watching import PixelWatch, TruthWatch

GROUP = "Held-out scenes"
GUIDE = (
    "W moves the gripper away from you, S towards you, A and D sideways. ↑ lifts it, ↓ lowers it, → opens the"
    " fingers, ← closes them. To pick a thing up: open, go over it, lower, close until the fingers hold it, lift."
)


def hands_fittings() -> Fittings:
    """Gallery, engine and instructions."""
    return Fittings(hands_starts, EnginePane.start, referee=HandsReferee(), check=check_scene, guide=GUIDE)


def hands_starts() -> Iterator[Start]:
    """The gallery of the embedded world: scenes that it was never trained on."""
    for start in scene_starts():
        name = f"hands/{start.scene.name}"
        yield Start(name, start.title, GROUP, start.image_3hw, plan=start.scene)


@dataclass(frozen=True)
class HandsWatch:
    """Watches one pane: the engine by its truth, a world model by its pictures."""

    watch: TruthWatch | PixelWatch

    @property
    def reached(self) -> Mapping[str, int]:
        """See ``Watch``."""
        return {str(wanted): latents for wanted, latents in self.watch.done.since}

    def after(self, place: Place) -> HandsWatch:
        """See ``Watch``."""
        if isinstance(self.watch, TruthWatch):
            assert isinstance(place, EnginePlace)
            return replace(self, watch=self.watch.after(place.look))
        controls = ACTIONS.commanded(torch.tensor(place.composites_M[-1:])).flat_KA[0].double().numpy()
        return replace(self, watch=self.watch.after(controls, place.frames_F3hw[-1]))


@dataclass(frozen=True)
class HandsReferee:
    """The instructions of a scene as goals."""

    def goals(self, start: Start) -> tuple[str, ...]:
        """See ``Referee``."""
        return tuple(map(str, instructions(start.plan))) if isinstance(start.plan, Scene) else ()

    def watch(self, start: Start, place: Place) -> HandsWatch | None:
        """See ``Referee``."""
        if not isinstance(start.plan, Scene):
            return None
        if isinstance(place, EnginePlace):
            return HandsWatch(TruthWatch.start(start.plan))
        return HandsWatch(PixelWatch.start(start.plan, start.image_3hw))


@dataclass(frozen=True)
class EnginePane:
    """A pane with the real engine, for scenes that it knows. All its walks share one table."""

    name: str
    table: Table
    worker: ThreadPoolExecutor
    real: bool = True

    @staticmethod
    def start(name: str = "Engine") -> EnginePane:
        """A pane whose engine lives in its worker, as OpenGL draws in the thread that asks for it.

        Raises:
            UserError: where the engine cannot draw.
        """
        worker = one_thread()
        try:
            return EnginePane(name, worker.submit(Table).result(), worker)
        except BaseException:
            worker.shutdown()
            raise

    def begin(self, start: Start, seed: int) -> EnginePlace | None:
        """See ``Pane``. The seed is not used, as only the player moves."""
        return self.table.begin(start.plan) if isinstance(start.plan, Scene) else None

    def close(self) -> None:
        """See ``Pane``."""
        self.worker.submit(self.table.close).result()
        self.worker.shutdown(cancel_futures=True)
