"""Where a recipe's critics come from, and what they need before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worldcompass.critic import Critic
from worldcompass.runs.requirements import NeededFile, NeededModule


class Rewards(Protocol):
    """Makes a run's critics, and says what they need before anything is loaded."""

    def critics(self, device: str) -> Sequence[Critic]:
        """Named as in ``config.weights``."""
        ...

    def files(self) -> tuple[NeededFile, ...]:
        """Their weights."""
        ...

    def modules(self) -> tuple[NeededModule, ...]:
        """Their packages."""
        ...

    def gpu_bytes(self) -> int:
        """Assumed memory of their networks in this process."""
        ...


@dataclass(frozen=True)
class OwnRewards:
    """Critics of your own, by a function that makes them; what they need is theirs to check."""

    make: Callable[[], Sequence[Critic]]

    def critics(self, device: str) -> Sequence[Critic]:
        """What the function makes."""
        return self.make()

    def files(self) -> tuple[NeededFile, ...]:
        """None that are known."""
        return ()

    def modules(self) -> tuple[NeededModule, ...]:
        """None that are known."""
        return ()

    def gpu_bytes(self) -> int:
        """None that are known."""
        return 0
