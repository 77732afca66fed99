"""Files and folders that are whole or as they were before."""

import json
import math
import threading
from dataclasses import dataclass

import pytest

from worldcompass.runs.atomic import finite, write_json, write_text, writing


def test_a_folder_replaces_the_one_before_it_at_once(tmp_path):
    folder = tmp_path / "out" / "weights"
    for name in ("first", "second"):
        with writing(folder) as unfinished:
            unfinished.mkdir()
            (unfinished / name).write_text(name)
            assert not (folder / name).exists()
    assert [path.name for path in folder.iterdir()] == ["second"]
    assert [path.name for path in folder.parent.iterdir()] == ["weights"]


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


def test_numbers_without_a_word_in_json_become_none():
    @dataclass(frozen=True)
    class Measured:
        mean: float
        ends: tuple[float, float]

    found = finite({"a": Measured(math.nan, (0.5, math.inf)), "b": [1, "x", None, True]})
    assert found == {"a": {"mean": None, "ends": [0.5, None]}, "b": [1, "x", None, True]}
