"""Asking again: tries, patience, and how often a critic failed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from worldcompass.errors import LostCritic
from worldcompass.rewards.http_json import pauses
from worldcompass.rewards.wire import WireError
from worldcompass.types import Scores

PATIENCE = 5.0  # seconds for a first answer


class FailedTry(Exception):
    """A critic was asked and gave no usable answer; it may be asked again."""


@dataclass
class Tries:
    """How often a critic was asked, and how often in vain; counted by several threads."""

    most: int
    """Of one group."""
    sleep: Callable[[float], None]
    """Between two."""
    made: int = 0
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, failed: bool) -> None:
        """One more."""
        with self.lock:
            self.made, self.failed = self.made + 1, self.failed + failed


def insist(who: str, ask: Callable[[], Scores], tries: Tries) -> Scores:
    """Ask until there is an answer; count every try, warn of each that failed and is made again.

    Raises:
        LostCritic: when every try has failed.
    """
    why = ""
    for pause in pauses(tries.most):
        if pause:
            warnings.warn(f"{who} failed and is asked again: {why}", stacklevel=3)
            tries.sleep(pause)
        try:
            scores = ask()
        except (FailedTry, WireError) as failure:
            why = str(failure)
            tries.count(failed=True)
        else:
            tries.count(failed=False)
            return scores
    raise LostCritic(
        f"{who} failed {tries.most} times, the last time: {why}. Mend it and go on with --resume: what was learned "
        "is kept"
    )
