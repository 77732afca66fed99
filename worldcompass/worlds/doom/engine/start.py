"""Start the engine in a folder of its own, and end it with the process that started it.

ViZDoom leaves a folder where it starts and crashes where it may not write; its engine outlives a killed parent. So
it gets the path of a small script that runs this file, which becomes the engine.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux, see prctl(2)


def write_script(folder: Path, engine: Path) -> Path | None:
    """A script that starts ``engine`` in ``folder`` with its own arguments; None where this cannot be done."""
    if sys.platform != "linux" or not sys.executable or not engine.is_file():
        return None
    script = folder / "engine.sh"
    words = (sys.executable, "-IS", __file__, str(os.getpid()), str(folder), str(engine))
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    return script if os.access(script, os.X_OK) else None  # else nothing in this folder may be executed


def become(parent: int, folder: str, engine: str, arguments: list[str]) -> None:
    """Replace this process by the engine; it is killed when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has already ended
        sys.exit(1)
    os.chdir(folder)
    os.execv(engine, [engine, *arguments])


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
