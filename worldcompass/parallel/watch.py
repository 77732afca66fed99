"""End a process that is told to stop while it waits in C++, where Python's handlers of signals do not run.

A rank waits there for others: when they meet, and in every collective. Python notes a signal at once, and runs its
handler only when the waiting is over.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worldcompass.parallel.signals import Notices

GRACE = 5.0  # seconds that the interpreter gets to handle a signal that stops the process at once
POLL_INTERVAL = 0.2  # seconds


@contextmanager
def ended_while_waiting() -> Iterator[None]:
    """End this process if a signal that means "stop at once" is not handled within ``GRACE`` seconds.

    Only signals with handlers of ``signals`` count. In other threads than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # which ends the watcher
        watcher.join()
        os.close(reader)


def _watch(reader: int) -> None:
    """Read the numbers of signals as they come, until the other end is closed."""
    pending: list[tuple[float, int]] = []
    notices = Notices()
    while True:
        readable, *_ = select.select([reader], [], [], POLL_INTERVAL if pending else None)
        numbers = os.read(reader, 64) if readable else b""
        if readable and not numbers:
            return
        now = time.monotonic()
        pending += [(now, number) for number in numbers if notices.mean_at_once(number, now)]
        pending = [(since, number) for since, number in pending if notices.unhandled(number, since)]
        if pending and now - pending[0][0] > GRACE:
            _end(pending[0][1])


def _end(number: int) -> None:
    with suppress(OSError):
        sys.stderr.write("stopped at once while waiting for other processes; saved steps are kept\n")
        sys.stderr.flush()
    os._exit(128 + number)
