"""Ctrl-C that waits for a step to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def finishing_the_step() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; yields a function that tells whether it came. Main thread only."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = signal.getsignal(signal.SIGINT)

    def remember(number: int, _frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
