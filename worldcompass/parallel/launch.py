"""Start the ranks of one machine, monitor them, and stop all when one fails; for several machines use torchrun."""

from __future__ import annotations

import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

import torch

from worldcompass.errors import EXIT_LOST_RANK, LAUNCHED, UserError
from worldcompass.parallel.cpus import usable_cpus
from worldcompass.parallel.parents import end_with_parent
from worldcompass.parallel.signals import Interrupted, Notices
from worldcompass.parallel.team import LAST_PORT, port_taken, rank_of_environment

POLL_INTERVAL = 0.1  # seconds
# Exit codes of ranks that have printed their reason.
EXPLAINED = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)
GRACE = 10.0  # seconds for the other ranks to stop after one has, before they are killed


def number_of_ranks(wanted: str, device: str) -> int:
    """The number of processes to start; ``auto`` is one per GPU, or one on a CPU, where one process uses all cores.

    Raises:
        UserError: when ``wanted`` is not a number of processes, or exceeds the number of GPUs.
    """
    gpus = torch.cuda.device_count() if device.startswith("cuda") else 0
    if wanted == "auto":
        return max(1, gpus)
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"--nproc is {wanted}: expected auto or a number of processes, such as 2")
    if gpus and int(wanted) > gpus:
        raise UserError(f"--nproc is {wanted}, this machine has {gpus} GPUs: use --nproc {gpus} or less")
    return int(wanted)


def is_rank() -> bool:
    """Whether this process was started as one of several.

    Raises:
        UserError: when the environment of a launcher is only half set.
    """
    rank_of_environment()
    return bool(os.environ.get("RANK"))


def refuse_launch(wanted: str) -> None:
    """Refuse ``--nproc`` in a process that another launcher has started, where it would mean nothing.

    Raises:
        UserError: for more than one process.
    """
    if is_rank() and LAUNCHED not in os.environ and wanted != "1":
        raise UserError(
            f"RANK is set, so another launcher has started this process: leave out --nproc {wanted}, or unset RANK"
            " and WORLD_SIZE"
        )


def end_with_launcher() -> None:
    """Have the kernel send SIGTERM to this rank when its launcher dies, so that it saves and stops."""
    if LAUNCHED in os.environ:
        end_with_parent(int(os.environ[LAUNCHED]))


def launch(words: Sequence[str], ranks: int) -> int:
    """Run ``worldcompass WORDS`` in several processes of this machine.

    The first prints for all. When one fails, the others are stopped too, within ``GRACE`` seconds plus the time of
    a step, and one sentence names it.

    Args:
        words: the command's arguments.
        ranks: number of processes.

    Returns:
        The exit code: 0 on success, 2 for a user's mistake, 128 + signal after a signal to stop, else 1.
    """
    port = str(_free_port(os.environ.get("MASTER_PORT") or "0"))
    with ExitStack() as files:
        errors = [
            files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            for _ in range(ranks)
        ]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                processes.append(_start(words, rank, ranks, port, errors[rank]))
            failed, stop_signal = _wait_and_forward_signals(processes)
        finally:
            _kill(processes)
        if failed is None:
            return 0
        if stop_signal is not None and processes[0].returncode not in EXPLAINED:
            print(f"stopped by signal {stop_signal}; saved steps are kept", file=sys.stderr)
            return 128 + stop_signal
        return _explain(failed, [process.returncode for process in processes], errors[failed], words)


def _start(
    words: Sequence[str], rank: int, ranks: int, port: str, errors: IO[str]
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        LAUNCHED: str(os.getpid()),
    }
    threads = max(1, usable_cpus() // ranks)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # As in this process, a module beside the user, such as profile.py, must not hide one of a library.
    unsafe = [] if sys.path[:1] in ([""], [os.getcwd()]) else ["-P"]
    command = [sys.executable, *unsafe, "-m", "worldcompass", *words]
    if rank == 0:
        return subprocess.Popen(command, env=environment)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)


def _wait(processes: Sequence[subprocess.Popen[bytes]], until: float) -> int | None:
    """Wait for all; returns the rank that most likely failed first, None when all succeeded.

    After the time ``until`` the ranks that still run are killed.
    """
    while True:
        if time.monotonic() > until:
            _kill(processes)
        codes = [process.poll() for process in processes]
        if failed := [rank for rank, code in enumerate(codes) if code]:
            _wait_for_others(processes)
            failed += [
                rank for rank, process in enumerate(processes) if process.returncode and rank not in failed
            ]
            return min(failed, key=lambda rank: _likely_a_consequence(processes[rank].returncode))
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_INTERVAL)


def _likely_a_consequence(code: int | None) -> int:
    """How likely a rank with this exit code failed because of another one, as an order."""
    if code == EXIT_LOST_RANK:
        return 2
    return 0 if code == -signal.SIGKILL else 1


def _wait_and_forward_signals(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int | None, int | None]:
    """``_wait``, with every signal to this process forwarded to the ranks, which finish their step and save.

    Ranks that a signal which means "stop at once" does not end within ``GRACE`` seconds are killed.

    Returns:
        The rank that failed, and the last signal.
    """
    stop_signal, notices, until = None, Notices(deferring=True), math.inf
    while True:
        try:
            return _wait(processes, until), stop_signal
        except Interrupted as notice:
            stop_signal, now = notice.number, time.monotonic()
            if notices.mean_at_once(notice.number, now):
                until = min(until, now + GRACE)
            if notice.number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
                continue  # the terminal sent it to all of them
            for process in processes:
                process.send_signal(notice.number)


def _wait_for_others(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give the other ranks time to fail by the same mistake, or to save after a signal."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(POLL_INTERVAL)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill our ranks that still run, as a rank that waits for a dead one handles no other signal."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _explain(failed: int, codes: Sequence[int], errors: IO[str], words: Sequence[str]) -> int:
    """Print which rank failed and why, unless the main one has; returns the exit code of the whole.

    Args:
        failed: the rank that failed.
        codes: exit codes of all ranks.
        errors: standard error of the failed rank; the main one writes to the terminal.
        words: the command's arguments.
    """
    code = codes[failed]
    alike = len(set(codes)) == 1 and code > 0 and code != EXIT_LOST_RANK
    if codes[0] in EXPLAINED or alike:
        return codes[0]
    errors.seek(0)
    lines = errors.read().strip().splitlines()
    why = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == EXIT_LOST_RANK:
        why = "lost the connection to another one"
    elif code > 0:
        why += f" ({lines[-1].removeprefix('error: ') if lines else 'see above'})"
    if lines and code not in EXPLAINED:  # a traceback
        print("\n".join(lines), file=sys.stderr)
    print(
        f"error: rank {failed} of {len(codes)} {why}; the others were stopped. Resume from the last saved step: "
        f"worldcompass {shlex.join(words)}{'' if '--resume' in words else ' --resume'}",
        file=sys.stderr,
    )
    return 2 if code == 2 else 1


def _free_port(wanted: str) -> int:
    """The wanted port, or any free one for 0; checked here, as ranks would only wait for a taken port."""
    if not wanted.isdigit() or int(wanted) > LAST_PORT:
        raise UserError(f"MASTER_PORT is {wanted}: expected a port's number; set one, or leave it unset")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(wanted)))
        except OSError:
            raise UserError(port_taken(wanted)) from None
        return probe.getsockname()[1]
