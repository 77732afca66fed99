"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends before it preempts or times out.

While a run trains, the first notice waits for the step to end. A second Ctrl-C, or a second SIGTERM, stops at once;
that harms nothing, as every file of a run is replaced whole or is cut back to the last whole line.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Seconds after the first of a kind from which another one means "at once". A scheduler and a launcher may both pass
# on one SIGTERM; SIGUSR1 only announces what will follow.
PATIENCE = {signal.SIGINT: 0.0, signal.SIGTERM: 1.0, signal.SIGUSR1: math.inf}


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop by a signal; its words say what is saved. The CLI exits with 128 + ``number``."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(words)
        self.number = number


@contextmanager
def notices_raise() -> Iterator[None]:
    """Inside, a notice raises ``Interrupted`` wherever the program is, as Ctrl-C does by itself."""

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(number)

    with _handling(stop):
        yield


@contextmanager
def finishing_the_step() -> Iterator[Callable[[], int | None]]:
    """Hold back the first notice; yields a function that returns its number, None as long as none came.

    Only the main thread of a process hears signals: in another one nothing is held back.
    """
    came: dict[int, float] = {}

    def remember(number: int, _frame: object) -> None:
        now = time.monotonic()
        if number not in came:
            came[number] = now
        elif now - came[number] >= PATIENCE[signal.Signals(number)]:
            raise Interrupted(number, "stopped at once: steps since the last checkpoint will be done again")

    with _handling(remember):
        yield lambda: next(iter(came), None)
    if came:  # too late for the last step to see it
        raise Interrupted(next(iter(came)))


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, ``handler`` takes all notices; those of before return afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in PATIENCE}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
