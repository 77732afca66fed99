"""Processes that wait for others in C++ can be stopped, and what a launcher sets is checked before they wait."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from worldcompass.errors import LAUNCHED, UserError
from worldcompass.parallel import cpus, launch, signals, team
from worldcompass.parallel.signals import Notices, finishing_the_step, notices_raise

# Two processes of different teams wait for ranks that never come: one as the first rank, one for the first rank.
WAIT = """
import os, signal, sys, time
from worldcompass.parallel import watch
from worldcompass.parallel.signals import notices_raise
from worldcompass.parallel.team import joined
watch.GRACE = 0.3
pids = []
for rank in "01":
    os.environ |= {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = sys.argv[1 + int(rank)]
    pids.append(pid := os.fork())
    if not pid:
        with notices_raise(), joined():
            os._exit(0)
time.sleep(1.5)
for pid, number in zip(pids, (signal.SIGINT, signal.SIGTERM)):
    os.kill(pid, number)
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_rank_that_waits_for_others_to_come_is_stopped_by_one_signal():
    done = subprocess.run(
        [sys.executable, "-c", WAIT, free_port(), free_port()], capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split() == ["130", "143"], done.stderr


def test_ranks_that_do_not_meet_are_said_to(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", port := free_port())
    monkeypatch.setattr(team, "MEET", timedelta(seconds=1))
    with pytest.raises(UserError, match=f"did not meet at 127.0.0.1:{port} within"), team.joined():
        pass


def test_in_a_step_only_a_repeated_signal_ends_a_process_that_waits(monkeypatch):
    with notices_raise():
        assert Notices().mean_at_once(signal.SIGTERM, 0.0)
        assert not Notices().mean_at_once(signal.SIGCHLD, 0.0)
        with finishing_the_step():
            notices = Notices()
            times = [(signal.SIGINT, 0.0), (signal.SIGINT, 0.1), (signal.SIGTERM, 1.0), (signal.SIGTERM, 1.1)]
            assert [notices.mean_at_once(*one) for one in times] == [False, True, False, False]
            assert notices.mean_at_once(signal.SIGTERM, 2.1) and not notices.mean_at_once(signal.SIGUSR1, 9.0)
        now = time.monotonic()
        assert Notices.unhandled(signal.SIGINT, now)
        monkeypatch.setitem(signals._handled, signal.SIGINT, now + 1)
        assert not Notices.unhandled(signal.SIGINT, now)
    assert not Notices.unhandled(signal.SIGINT, now + 2), "another handler answers, such as a web server's"


def test_a_launcher_kills_ranks_that_a_second_signal_does_not_end(monkeypatch, capsys):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(); time.sleep(60)"
    started = []

    def start(words, rank, *_):
        process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline(), "it ignores signals now"
        started.append(process)
        if rank == 1:
            for delay in (0.1, 1.4):
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return process

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch, "GRACE", 0.3)
    with notices_raise():
        assert launch.launch(["train"], 2) == 143
    assert [process.returncode for process in started] == [-9, -9]
    assert "stopped by signal 15" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK is not"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is x and WORLD_SIZE 2"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "the rank below the size"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and MASTER_ADDR is not set"),
        *(
            (
                {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
                f"MASTER_PORT is {port}: expected a port's number, 1 to 65535",
            )
            for port in ("abc", "99999", "0", "-1")
        ),
    ],
)
def test_a_half_set_environment_of_a_launcher_is_a_sentence(given, said, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, given.get(name, ""))
    with pytest.raises(UserError, match=said):
        launch.is_rank()


def test_another_launchers_processes_start_no_others(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    launch.refuse_launch("1")
    with pytest.raises(UserError, match="another launcher has started this process: leave out --nproc 4"):
        launch.refuse_launch("4")
    monkeypatch.setenv(LAUNCHED, "1")
    launch.refuse_launch("4")


def test_an_empty_environment_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert not launch.is_rank() and team.rank_of_environment() == (0, 1)


def test_only_the_cores_that_a_process_may_use_count(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus, "QUOTA", tmp_path / "cpu.max")
    assert cpus.usable_cpus() == 8
    for text, expected in (
        ("max 100000", 8),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("9900000 100000", 8),
    ):
        cpus.QUOTA.write_text(text)
        assert cpus.usable_cpus() == expected


@pytest.mark.parametrize(("first", "safe"), [("/usr/bin", True), ("", False), (os.getcwd(), False)])
def test_ranks_import_from_where_their_launcher_does(first, safe, monkeypatch):
    """Else a module beside the user, such as profile.py, hides one of a library in the ranks alone."""
    started = []
    monkeypatch.setattr(
        launch.subprocess, "Popen", lambda command, **_: started.append(command) or SimpleNamespace()
    )
    monkeypatch.setattr(sys, "path", [first, *sys.path])
    launch._start(["train"], 0, 1, "1", sys.stderr)
    assert ("-P" in started[0]) == safe
