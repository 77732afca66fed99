"""Signals to stop a run: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends before preemption or a time limit.

While a run trains, the first signal takes effect at the end of the step. A second Ctrl-C or SIGTERM stops at once.
This is safe, as files of a run are replaced atomically or truncated to their last complete line.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Seconds after which a second signal of the same kind means "stop at once". A scheduler and a launcher may both
# forward one SIGTERM, and SIGUSR1 only announces a later signal.
PATIENCE = {signal.SIGINT: 0.0, signal.SIGTERM: 1.0, signal.SIGUSR1: math.inf}


_handled: dict[int, float] = {}  # when a handler of this module last ran, by signal
_deferring = False  # whether the first signal waits for the end of the step


class Notices:
    """Tells signals that mean "stop at once" from the first one, which lets the running step end."""

    def __init__(self, deferring: bool = False) -> None:
        """With ``deferring`` the first one lets a step end even if this process runs none, as for a launcher."""
        self._first: dict[int, float] = {}
        self._deferring = deferring

    def mean_at_once(self, number: int, now: float) -> bool:
        """Whether a signal that came now does; signals that this module does not handle never do."""
        if number not in PATIENCE:
            return False
        first = self._first.setdefault(number, now)
        repeated = first != now and now - first >= PATIENCE[signal.Signals(number)]
        return repeated or not (_deferring or self._deferring)

    @staticmethod
    def unhandled(number: int, since: float) -> bool:
        """Whether a handler of this module is installed and has not run since."""
        ours = getattr(signal.getsignal(number), "notes", False)
        return ours and _handled.get(number, -math.inf) < since


class Interrupted(KeyboardInterrupt):
    """A signal stops the run; the message reports what is saved. The CLI exits with 128 + ``number``."""

    def __init__(self, number: int, words: str = "") -> None:
        super().__init__(words)
        self.number = number


@contextmanager
def notices_raise() -> Iterator[None]:
    """Make every signal raise ``Interrupted`` at once inside the block, as Ctrl-C raises ``KeyboardInterrupt``."""

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(number)

    with _handling(stop):
        yield


@contextmanager
def finishing_the_step() -> Iterator[Callable[[], int | None]]:
    """Defer the first signal; yields a function that returns its number, or None before one arrives.

    Only the main thread of a process receives signals; in other threads this does nothing.
    """
    received: dict[int, float] = {}

    def remember(number: int, _frame: object) -> None:
        now = time.monotonic()
        if number not in received:
            received[number] = now
        elif now - received[number] >= PATIENCE[signal.Signals(number)]:
            raise Interrupted(number, "stopped at once: steps since the last checkpoint will be repeated")

    global _deferring
    with _handling(remember):
        _deferring = threading.current_thread() is threading.main_thread()
        try:
            yield lambda: next(iter(received), None)
        finally:
            _deferring = False
    if received:  # after the last step checked for one
        raise Interrupted(next(iter(received)))


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Use ``handler`` for all these signals inside the block, and restore the previous handlers afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def noted(number: int, frame: object) -> None:
        _handled[number] = time.monotonic()
        handler(number, frame)

    noted.notes = True  # type: ignore[attr-defined]
    before = {number: signal.signal(number, noted) for number in PATIENCE}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
