"""Goals of a start, such as ``pick up the navy cup``, and whether a pane's walk has reached them.

A world brings a ``Referee`` if it has goals. Watches are values, so that a rewind also takes back what was reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from worldcompass.player.panes import Place
from worldcompass.player.starts import Start


class Watch(Protocol):
    """What one pane's walk has reached."""

    @property
    def reached(self) -> Mapping[str, int]:
        """Goals in words, with the latents after which each was reached."""
        ...

    def after(self, place: Place) -> Self:
        """After one more step, at its place."""
        ...


class Referee(Protocol):
    """Says what can be reached from a start, and watches."""

    def goals(self, start: Start) -> tuple[str, ...]:
        """In words; none for a start that it does not know."""
        ...

    def watch(self, start: Start, place: Place) -> Watch | None:
        """A watch of a pane that stands at a start; None where there is no goal."""
        ...


def reached(watch: Watch | None) -> dict[str, int]:
    """Of a watch, if there is one."""
    return dict(watch.reached) if watch is not None else {}
