"""The contract of a critic: pixels and commands in, one score per candidate out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from worldcompass.types import Group, Scores


@runtime_checkable
class Critic(Protocol):
    """Scores the candidates of a group; ``worldcompass.testing.check_critic`` is its executable form.

    A candidate's score must not depend on its place in the group, and the group must be left as it is.
    """

    @property
    def name(self) -> str:
        """Word under which the scores are logged, such as ``interaction``."""
        ...

    def __call__(self, group: Group) -> Scores:
        """Score the G candidates, higher is better; ``valid_G`` False where the critic abstains."""
        ...


@runtime_checkable
class Elsewhere(Critic, Protocol):
    """A critic whose work is done in other processes: it is asked from threads while the next group is imagined."""

    @property
    def at_once(self) -> int:
        """Groups that it may be asked about at the same time, at least 1."""
        ...
