"""Sources of a recipe's critics, with the files and packages to check before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worldcompass.critic import Critic
from worldcompass.runs.requirements import NeededFile, NeededModule


class Rewards(Protocol):
    """Makes a run's critics and lists their requirements before anything is loaded."""

    def critics(self, device: str) -> Sequence[Critic]:
        """The critics, with the names of ``config.weights``."""
        ...

    def files(self) -> tuple[NeededFile, ...]:
        """Files with the critics' weights."""
        ...

    def modules(self) -> tuple[NeededModule, ...]:
        """Packages that the critics import."""
        ...

    def gpu_bytes(self) -> int:
        """Assumed GPU memory of the critics' networks in this process, bytes."""
        ...


@dataclass(frozen=True)
class OwnRewards:
    """A user's own critics, made by a function. Their requirements are unknown here; the critics check them."""

    make: Callable[[], Sequence[Critic]]

    def critics(self, device: str) -> Sequence[Critic]:
        """The critics that the function returns."""
        return self.make()

    def files(self) -> tuple[NeededFile, ...]:
        """No known files."""
        return ()

    def modules(self) -> tuple[NeededModule, ...]:
        """No known packages."""
        return ()

    def gpu_bytes(self) -> int:
        """No known GPU memory."""
        return 0
