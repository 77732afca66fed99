"""Processes forked off a server that has loaded torch already: each costs tenths of a second instead of seconds.

The server is started by the first of them, once in every process that runs tests. A command that starts others,
such as a launcher of ranks, can fork these off itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from typing import IO, Any

from worldcompass.errors import LAUNCHED

PRELOADED = [
    "worldcompass.testing",
    "worldcompass.training.loop",
    "worldcompass.commands.train",
    "torch._dynamo",  # which every torch optimiser imports when it is made; it takes seconds
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
]


def server() -> ForkServerContext:
    """The context whose ``Process`` is forked off the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class ForkedCommand:
    """Stands in for ``subprocess.Popen`` of ``python -m worldcompass WORDS``.

    The words, the environment, the streams and the exit code are those of a real process. Its parent is the server,
    so that it does not end with the process that started it.
    """

    starter: tuple[str, str] | None = None
    """Module and name of what this command starts processes with, when these are forked off the command itself."""

    def __init__(
        self,
        command: Sequence[str],
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        python, *options = command
        words = options[options.index("worldcompass") + 1 :]
        assert python == sys.executable and options[-len(words) - 2 :] == ["-m", "worldcompass", *words]
        self._process = self._started(words, dict(os.environ if env is None else env), (stdout, stderr))
        self._process.start()

    def _started(
        self, words: list[str], environment: dict[str, str], streams: tuple[int | IO[Any] | None, ...]
    ) -> BaseProcess:
        passed = [_Stream(_number(stream, default)) for default, stream in enumerate(streams, start=1)]
        return server().Process(target=_run_for_another, args=(words, environment, passed, self.starter))

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("worldcompass", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


as_subprocess = SimpleNamespace(
    Popen=ForkedCommand, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
)
"""Stands in for the module ``subprocess`` in a module that starts commands."""


class ForkedLauncher(ForkedCommand):
    """A ``worldcompass train --nproc N`` whose ranks are its own forks, and end with it."""

    starter = "worldcompass.parallel.launch", "subprocess"


class ForkedGrid(ForkedCommand):
    """A ``worldcompass ablate`` whose runs are its own forks, and end with it."""

    starter = "worldcompass.ablation.running", "subprocess"


class _OwnFork(ForkedCommand):
    """Forked off the process that starts it, which must have no other thread."""

    def _started(
        self, words: list[str], environment: dict[str, str], streams: tuple[int | IO[Any] | None, ...]
    ) -> BaseProcess:
        numbers = [_number(stream, default) for default, stream in enumerate(streams, start=1)]
        context = multiprocessing.get_context("fork")
        return context.Process(target=_run_as_new, args=(words, environment, numbers))


class _Stream:
    """The number of an open file, which a process started by the server gets as a number of its own."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (None if self.number is None else reduction.DupFd(self.number),)


def _received(passed: Any) -> int | None:
    return None if passed is None else passed.detach()


def _number(given: int | IO[Any] | None, default: int) -> int | None:
    """Of an open file; None is nowhere."""
    if given is None:
        return default
    if isinstance(given, int):
        return None if given == subprocess.DEVNULL else given
    return given.fileno()


def _run_for_another(
    words: list[str],
    environment: dict[str, str],
    streams: Sequence[int | None],
    starter: tuple[str, str] | None,
) -> None:
    if LAUNCHED in environment:  # it ends with its parent
        environment[LAUNCHED] = str(os.getppid())
    if starter is not None:
        module, name = starter
        forks = SimpleNamespace(**{**vars(as_subprocess), "Popen": _OwnFork})
        setattr(importlib.import_module(module), name, forks)
    _run(words, environment, streams)


def _run_as_new(words: list[str], environment: dict[str, str], streams: Sequence[int | None]) -> None:
    """With the handlers of signals that a new process has."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run(words, environment, streams)


def hurry() -> None:
    """One thread, as small tensors need, and videos that are written quickly, as by ``quick_videos``."""
    import torch

    from worldcompass.media import video

    torch.set_num_threads(1)
    video.PRESET = "ultrafast"


def _run(words: list[str], environment: dict[str, str], streams: Sequence[int | None]) -> None:
    from worldcompass import cli

    hurry()
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(os.devnull, os.O_WRONLY) if stream is None else stream, number)
    # The server's own were made for files, and ask a pipe for its position.
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 (lives with the process)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["worldcompass", *words]
    sys.exit(cli.main(words))


def all_said(reading: int, timeout: float) -> str:
    """What is written into a pipe until all of its writers have ended.

    Raises:
        TimeoutError: when some have not, after so many seconds.
    """
    said, until = b"", time.monotonic() + timeout
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        if not (part := os.read(reading, 1 << 16)):
            return said.decode()
        said += part
    raise TimeoutError(f"some process still writes, after {said.decode()}")
