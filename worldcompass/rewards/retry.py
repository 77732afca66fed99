"""Retries of critics in other processes, and counts of their failures."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from worldcompass.errors import LostCritic
from worldcompass.rewards.http_json import pauses
from worldcompass.rewards.wire import WireError
from worldcompass.types import Scores

PATIENCE = 5.0  # seconds for the first answer


class FailedTry(Exception):
    """A try gave no usable answer; a retry is allowed."""


@dataclass
class Tries:
    """Limit and counts of a critic's tries; safe to share between threads."""

    limit: int
    """Tries per group."""
    sleep: Callable[[float], None]
    """Waits between two tries."""
    made: int = 0
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, failed: bool) -> None:
        """Count one try."""
        with self.lock:
            self.made, self.failed = self.made + 1, self.failed + failed


def score_with_retries(who: str, ask: Callable[[], Scores], tries: Tries) -> Scores:
    """Call ``ask`` until it succeeds; counts every try and warns before each retry.

    Args:
        who: the critic, for messages.
        ask: one try; raises ``FailedTry`` or ``WireError`` when it fails.
        tries: limit and counts.

    Raises:
        LostCritic: when every try fails.
    """
    why = ""
    for pause in pauses(tries.limit):
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
        f"{who} failed {tries.limit} times, the last time: {why}. Fix it and resume with --resume: saved steps "
        "are kept"
    )
