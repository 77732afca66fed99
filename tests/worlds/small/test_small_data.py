"""Recordings of any world: arrays come back as declared, shards are whole, what does not fit is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from worldcompass.errors import UserError
from worldcompass.worlds.small import data


@dataclass(frozen=True)
class Marked(data.Episode):
    marks_F2: np.ndarray
    moves_M: np.ndarray
    number: np.ndarray


FORMAT = data.Format(Marked, version=3, frames_per_latent=4, remedy="record some")


def episode(number: int) -> Marked:
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None]
    marks = np.stack([np.arange(9), np.full(9, number)], 1)
    return Marked(np.broadcast_to(frames, (9, 2, 2, 3)), marks, np.arange(3), np.array(number))


def record(number: int, root: Path) -> None:
    data.write_shard(root / "train" / f"{number}", [episode(number), episode(number + 10)])


def recorded(root: Path, count: int = 2) -> dict[Path, int]:
    return {root / "train" / f"{number}": number for number in range(count)}


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "data"
    data.claim(root, FORMAT, {"seed": 1}, 1000, "record less")
    data.collect(recorded(root), partial(record, root=root), workers=1)
    return root


def test_episodes_come_back_as_they_were_recorded(root):
    shards = data.load(root, "train", FORMAT)
    assert [int(e.number) for shard in shards for e in shard] == [0, 10, 1, 11]
    assert isinstance(shards[1][0], Marked) and FORMAT.num_latents(shards[1][0]) == 3
    for name in data.arrays_of(Marked):
        np.testing.assert_array_equal(getattr(shards[1][0], name), getattr(episode(1), name))


def test_a_window_cuts_frames_and_latents_and_leaves_the_rest():
    part = episode(5).window(1, 3, frames_per_latent=4)
    assert part.frames_Fhw3[:, 0, 0, 0].tolist() == [4, 5, 6, 7, 8] == part.marks_F2[:, 0].tolist()
    assert part.moves_M.tolist() == [1, 2] and int(part.number) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_only_missing_shards_are_recorded(root, workers):
    digest, shards = data.fingerprint(root), recorded(root)
    lost, kept = list(shards)
    stamp = (kept / "frames.npy").stat().st_mtime_ns
    shutil.rmtree(lost)
    assert data.fingerprint(root) != digest
    data.collect(shards, partial(record, root=root), workers)
    assert data.fingerprint(root) == digest
    assert (kept / "frames.npy").stat().st_mtime_ns == stamp


def test_a_shard_that_was_interrupted_leaves_nothing_that_counts(root, monkeypatch):
    save = np.save
    monkeypatch.setattr(
        np, "save", lambda path, array: save(path, array) if "marks" not in path.name else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        record(2, root)
    assert len(data.load(root, "train", FORMAT)) == 2
    monkeypatch.undo()
    record(2, root)
    assert len(data.load(root, "train", FORMAT)) == 3


def test_one_changed_byte_changes_the_fingerprint(root):
    before, file = data.fingerprint(root), root / "train" / "1" / "moves.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert data.fingerprint(root) != before


def test_folders_that_do_not_fit_are_refused_in_words(root, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"has no shard of split 'judge': record some"):
        data.load(root, "judge", FORMAT)
    with pytest.raises(UserError, match=r"is not a dataset: expected dataset\.json there; record some"):
        data.load(tmp_path, "train", FORMAT)
    with pytest.raises(UserError, match=r"made with .*'seed': 1.* not .*'seed': 2"):
        data.claim(root, FORMAT, {"seed": 2}, 0, "record less")
    other = data.Format(Marked, version=4, frames_per_latent=4, remedy="record some")
    with pytest.raises(UserError, match="version 3, expected 4: record some"):
        data.load(root, "train", other)
    (root / data.CARD).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        data.load(root, "train", FORMAT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="free space or record less"):
        data.claim(tmp_path / "new", FORMAT, {}, 1000, "record less")


def test_too_little_space_for_more_recordings_is_said_before(root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="free space or record less"):
        data.claim(root, FORMAT, {"seed": 1}, 1000, "record less")


@pytest.mark.parametrize("damage", ["cut", "missing", "short"])
def test_damaged_shards_are_named(root, damage):
    file = root / "train" / "1" / "marks.npy"
    if damage == "cut":
        os.truncate(file, 40)
    elif damage == "missing":
        file.unlink()
    else:
        np.save(file, np.load(file)[:, :5])
    with pytest.raises(UserError, match=r"train/1 is damaged .*|train/1 is damaged: its arrays have"):
        data.load(root, "train", FORMAT)


def sleeping(mark: Path) -> None:
    mark.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_small_data import data, sleeping\n"
        "if __name__ == '__main__':\n"
        "    data.collect({Path(p): Path(p) for p in sys.argv[1:]}, sleeping, workers=2)\n"
    )
    script, marks = tmp_path / "parent.py", [tmp_path / "a", tmp_path / "b"]
    script.write_text(code)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen([sys.executable, script, *marks], env={**os.environ, "PYTHONPATH": path})
    try:
        wait_for(lambda: all(mark.with_suffix(".pid").exists() for mark in marks))
        workers = [int(mark.with_suffix(".pid").read_text() or 0) for mark in marks]
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(runs(worker) for worker in workers))


def runs(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
