"""End processes with their parents."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux, see prctl(2)


def end_with_parent(parent: int, with_signal: int = signal.SIGTERM) -> None:
    """Have the kernel send a signal to this process when its parent dies; it gets one now if that is dead already.

    Does nothing on other systems than Linux.

    Args:
        parent: process id of the parent, as it knew it.
        with_signal: to send.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, with_signal)
    if os.getppid() != parent:
        os.kill(os.getpid(), with_signal)
