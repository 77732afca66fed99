"""Files and folders that are whole or as they were before."""

import errno
import json
import math
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from worldcompass.errors import UserError
from worldcompass.runs.atomic import check_name, finite, write_json, write_tensors, write_text, writing


def test_a_folder_replaces_the_one_before_it_at_once(tmp_path):
    folder = tmp_path / "out" / "weights"
    for name in ("first", "second"):
        with writing(folder) as unfinished:
            unfinished.mkdir()
            (unfinished / name).write_text(name)
            assert not (folder / name).exists()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk" / "weights").mkdir(parents=True)
    for name in ("weights", "page.html"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    with writing(tmp_path / "weights") as unfinished:
        unfinished.mkdir()
        (unfinished / "a").touch()
    write_text(tmp_path / "page.html", "new")  # the link led to nothing
    assert (tmp_path / "weights").is_symlink() and (tmp_path / "disk" / "weights" / "a").is_file()
    assert (tmp_path / "page.html").is_symlink() and (tmp_path / "disk" / "page.html").read_text() == "new"


def test_what_fails_leaves_the_older_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "page.html", "before")
    with pytest.raises(KeyboardInterrupt), writing(path) as unfinished:
        unfinished.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_behind_is_written_over(tmp_path):
    (tmp_path / ".unfinished_a.json").write_text("{")
    write_json(tmp_path / "a.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path, together = tmp_path / "answer.json", threading.Barrier(8)
    failures = []

    def write(number):
        together.wait()
        try:
            for _ in range(20):
                write_json(path, {"answer": [number] * 1000}, shared=True)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(set(json.loads(path.read_text())["answer"])) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_was_killed_in_is_deleted_and_what_one_still_writes_stays(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f".unfinished_clip.{ended.pid}.7.mp4"
    alive = tmp_path / f".unfinished_clip.{os.getppid()}.7.mp4"
    for path in (left, alive):
        path.write_text("half")
    write_text(tmp_path / "clip.mp4", "whole", shared=True)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", alive.name}


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    path = write_text(tmp_path / ("x" * 251 + ".txt"), "whole")
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OSError, match="too long"):
        check_name(tmp_path / ("x" * 256))


@pytest.mark.parametrize(
    ("name", "said"), [(".", "has no name of its own"), (os.fsdecode(b"bad\xff"), "is not UTF-8")]
)
def test_what_is_no_name_is_said_before_work_starts(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        check_name(Path(name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_is_written_to(number, tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "a", "whole")
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_text(tmp_path / "b", "whole")


def test_weights_get_the_permissions_of_other_files(tmp_path):
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(1)})
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize(
    "words", ["I/O error: No space left (os error 28)", 'Error { code: 28, kind: "full" }']
)
def test_a_full_disk_is_one_for_every_version_of_safetensors(words, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError(words)

    monkeypatch.setattr("worldcompass.runs.atomic.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors(tmp_path / "w.safetensors", {})
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_numbers_without_a_word_in_json_become_none():
    @dataclass(frozen=True)
    class Measured:
        mean: float
        ends: tuple[float, float]

    found = finite({"a": Measured(math.nan, (0.5, math.inf)), "b": [1, "x", None, True]})
    assert found == {"a": {"mean": None, "ends": [0.5, None]}, "b": [1, "x", None, True]}


def test_a_device_or_a_pipe_is_refused_and_stays(tmp_path):
    """A rename would put a file in its place, as root even at /dev/null."""
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a device or a pipe, which would be replaced: name a file"):
        write_text(pipe, "page")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_file_that_would_replace_a_folder_names_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "run", "page")
    assert caught.value.filename == str(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
