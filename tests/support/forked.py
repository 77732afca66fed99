"""Processes forked off a server that has loaded torch already: each costs tenths of a second instead of seconds.

The server is started by the first of them, once in every process that runs tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from multiprocessing.context import ForkServerContext
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
        streams = _stream(stdout, 1), _stream(stderr, 2)
        environment = dict(os.environ if env is None else env)
        self._process = server().Process(target=_run, args=(words, environment, streams))
        self._process.start()

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


class _Stream:
    """An open file, which a process started by the server gets as a number of its own; None is nowhere."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (None if self.number is None else reduction.DupFd(self.number),)


def _received(passed: Any) -> int:
    return os.open(os.devnull, os.O_WRONLY) if passed is None else passed.detach()


def _stream(given: int | IO[Any] | None, default: int) -> _Stream:
    if given is None:
        return _Stream(default)
    if isinstance(given, int):
        return _Stream(None if given == subprocess.DEVNULL else given)
    return _Stream(given.fileno())


def _run(words: list[str], environment: dict[str, str], streams: tuple[int, int]) -> None:
    import torch

    from worldcompass import cli

    torch.set_num_threads(1)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(environment)
    if LAUNCHED in environment:  # it ends with its parent
        os.environ[LAUNCHED] = str(os.getppid())
    sys.argv = ["worldcompass", *words]
    sys.exit(cli.main(words))
