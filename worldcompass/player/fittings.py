"""What a world brings to the player besides its model; all of it is optional."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from worldcompass.critic import Critic
from worldcompass.player.goals import Referee
from worldcompass.player.panes import Pane
from worldcompass.player.starts import Start
from worldcompass.serving.scoring import Reader


def accept(image_3hw: Tensor) -> None:
    """Accept any picture."""


@dataclass(frozen=True)
class Fittings:
    """A world's gallery, engine, gauges and goals."""

    starts: Callable[[], Iterable[Start]] = tuple
    engine: Callable[[], Pane] | None = None
    """Makes the pane of the real engine; raises a ``UserError`` where it cannot run."""
    reader: Reader | None = None
    """Of the gauges."""
    critics: tuple[Critic, ...] = ()
    """Of ``/score``."""
    referee: Referee | None = None
    check: Callable[[Tensor], None] = accept
    """Raises a ``UserError`` for a user's picture that the world cannot start from."""
    guide: str = ""
    """How to drive it, in a sentence or two."""
