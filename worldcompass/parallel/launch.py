"""Start the ranks of one machine, watch them, end all when one ends badly; torchrun does so for many machines."""

from __future__ import annotations

import ctypes
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
from worldcompass.parallel.signals import Interrupted
from worldcompass.parallel.team import port_taken

LAST_PORT = 65535
PR_SET_PDEATHSIG = 1  # of Linux, see prctl(2)
LOOK_EVERY = 0.1  # seconds
SAID = (
    2,
    128 + signal.SIGINT,
    128 + signal.SIGTERM,
    128 + signal.SIGUSR1,
)  # exit codes of ranks that said why
GRACE = 10.0  # seconds in which ranks may end by themselves once one has, before they are ended


def number_of_ranks(wanted: str, device: str) -> int:
    """``auto`` is one rank for each GPU, and one on a CPU, whose cores a single process uses already.

    Raises:
        UserError: when ``wanted`` is no number of processes, or more than there are GPUs.
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
    """Whether this process was started as one of several."""
    return "RANK" in os.environ


def end_with_launcher() -> None:
    """Have the kernel ask this rank to stop once its launcher is gone; it saves then, and none is left behind."""
    if LAUNCHED not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ[LAUNCHED]):  # it was gone before
        os.kill(os.getpid(), signal.SIGTERM)


def launch(words: Sequence[str], ranks: int) -> int:
    """Run ``worldcompass WORDS`` in so many processes of this machine.

    The first speaks for all. When one ends badly the others are ended too, within ``GRACE`` seconds and the time
    that a step takes to react, and one sentence names it.

    Returns:
        0 when all ended well, 2 when a user's mistake ended them, 128 + signal when one asked them to stop, else 1.
    """
    port = str(_free_port(os.environ.get("MASTER_PORT") or "0"))
    with ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                processes.append(_start(words, rank, ranks, port, said[rank]))
            failed, asked = _watch_and_pass_on(processes)
        finally:
            _end(processes)
        if failed is None:
            return 0
        if asked is not None and processes[0].returncode not in SAID:
            print(f"stopped by signal {asked}; what was saved is kept", file=sys.stderr)
            return 128 + asked
        return _explain(failed, [process.returncode for process in processes], said[failed], words)


def _start(words: Sequence[str], rank: int, ranks: int, port: str, said: IO[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LAUNCHED: str(os.getpid()),
    }  # fmt: skip
    threads = max(1, (os.cpu_count() or 1) // ranks)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    command = [sys.executable, "-m", "worldcompass", *words]
    if rank == 0:
        return subprocess.Popen(command, env=environment)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; the rank that ended badly by itself, the first of them, None when all ended well."""
    while True:
        codes = [process.poll() for process in processes]
        if bad := [rank for rank, code in enumerate(codes) if code]:
            _grace(processes)
            bad += [rank for rank, process in enumerate(processes) if process.returncode and rank not in bad]
            return min(bad, key=lambda rank: _comes_after(processes[rank].returncode))
        if all(code == 0 for code in codes):
            return None
        time.sleep(LOOK_EVERY)


def _comes_after(code: int | None) -> int:
    """How likely a rank that ended so ended because of another."""
    return 2 if code == EXIT_LOST_RANK else 0 if code == -signal.SIGKILL else 1


def _watch_and_pass_on(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int | None, int | None]:
    """``_watch``, with every notice to this process passed on to the ranks, which finish their step and save.

    Returns:
        The rank that ended badly, and the last notice.
    """
    asked = None
    while True:
        try:
            return _watch(processes), asked
        except Interrupted as notice:
            asked = notice.number
            if notice.number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty():
                continue  # the terminal sent it to all of them
            for process in processes:
                process.send_signal(notice.number)


def _grace(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Time for the others to end by the same mistake, or to save what an interruption asks for."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(LOOK_EVERY)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End our own ranks that still run: a rank that waits for a dead one hears nothing else."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _explain(failed: int, codes: Sequence[int], said: IO[str], words: Sequence[str]) -> int:
    """Say which rank failed and why, where the main one has not said it for all; the exit code of the whole.

    Args:
        said: what the rank that failed wrote; the main one's stands on the screen already.
    """
    code = codes[failed]
    alike = len(set(codes)) == 1 and code > 0 and code != EXIT_LOST_RANK
    if codes[0] in SAID or alike:
        return codes[0]
    said.seek(0)
    lines = said.read().strip().splitlines()
    why = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == EXIT_LOST_RANK:
        why = "lost the connection to another one"
    elif code > 0:
        why += f" ({lines[-1].removeprefix('error: ') if lines else 'see above'})"
    if lines and code not in SAID:  # a traceback
        print("\n".join(lines), file=sys.stderr)
    print(
        f"error: rank {failed} of {len(codes)} {why}; the others were ended. What was saved is kept: "
        f"worldcompass {shlex.join(words)}{'' if '--resume' in words else ' --resume'}",
        file=sys.stderr,
    )
    return 2 if code == 2 else 1


def _free_port(wanted: str) -> int:
    """The port that is wanted, any for 0; where a rank would only wait for it, this one asks at once."""
    if not wanted.isdigit() or int(wanted) > LAST_PORT:
        raise UserError(f"MASTER_PORT is {wanted}: expected a port's number, or leave it unset")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(wanted)))
        except OSError:
            raise UserError(port_taken(wanted)) from None
        return probe.getsockname()[1]
