"""The engine starts where nothing may be written, leaves nothing there, and ends with its parent."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.doom.engine import engine as engines
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.maps import find_map
from worldcompass.worlds.doom.engine.start import write_script


def play(folder, pipe):
    os.chdir(folder)
    with Engine(find_map("my_way_home")) as game:
        frames = game.reset(1).frames_Fhw3
        children = [path.read_text() for path in Path(f"/proc/{os.getpid()}/task").glob("*/children")]
        pipe.send((frames.shape, [int(child) for child in " ".join(children).split()]))
        time.sleep(60)


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("writable", [False, True])
def test_the_engine_starts_anywhere_leaves_nothing_and_ends_with_a_killed_parent(writable, tmp_path):
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=play, args=(tmp_path if writable else "/proc", there))
    process.start()
    assert here.poll(100), "the engine did not start"
    shape, children = here.recv()
    assert shape[1:] == (48, 64, 3) and any(map(runs, children))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    until = time.monotonic() + 20
    while any(map(runs, children)):
        assert time.monotonic() < until, "the engine outlived its parent"
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


def test_too_little_shared_memory_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(engines.os, "statvfs", lambda _: SimpleNamespace(f_bavail=4, f_frsize=4096))
    with pytest.raises(UserError, match="8 MiB of writable shared memory"):
        Engine(find_map("my_way_home"))


def test_without_a_script_an_unwritable_folder_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "write_script", lambda *_: None)
    monkeypatch.chdir("/proc")
    monkeypatch.setattr(engines.os, "access", lambda path, _: path != os.curdir)
    with pytest.raises(UserError, match="the engine writes to the current folder /proc"):
        Engine(find_map("my_way_home"))


def test_a_folder_where_nothing_may_be_executed_gets_no_script(monkeypatch, tmp_path):
    engine = tmp_path / "vizdoom"
    engine.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert write_script(tmp_path, engine) is None
