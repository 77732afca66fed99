"""The folder of a run: its paths, its lock, and its claim for an output."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import check_name, write_json
from worldcompass.runs.metrics import read_object
from worldcompass.ways import ROLLOUT

CLIPS = "step_*.mp4"


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder; none of them has to exist."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration of the latest training."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row for each training step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Actions of the doctor, and changed settings."""
        return self.path / "events.jsonl"

    def rolled_back(self, number: int) -> Path:
        """The rows that a rollback removed; rollbacks are counted from 1."""
        return self.path / f"rolled_back_{number}.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, each a folder."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of clips of probes during training."""
        return self.path / "samples"

    @property
    def untrained(self) -> Path:
        """The clip of the probe's scenarios before training."""
        return self.samples / "before.mp4"

    def clip(self, step: int) -> Path:
        """The clip of the probe after a step."""
        return self.samples / f"step_{step:06d}.mp4"

    def clips(self) -> dict[int, Path]:
        """The existing clips, by step."""
        numbered = {path.stem.removeprefix("step_"): path for path in self.samples.glob(CLIPS)}
        return {int(step): numbered[step] for step in sorted(filter(str.isdecimal, numbered), key=int)}

    @property
    def weights(self) -> Path:
        """The folder of exported weights, in the formats of the world."""
        return self.path / "weights"

    @property
    def final(self) -> Path:
        """The record of the exported weights' checkpoint."""
        return self.path / "final.json"

    @property
    def record(self) -> Path:
        """The record of the run's start: recipe, versions, command, machine."""
        return self.path / "run.json"

    @property
    def results(self) -> Path:
        """The results of the evaluation."""
        return self.path / "results.json"

    def evaluation(self, name: str, way: str = ROLLOUT) -> Path:
        """Single measurements of ``engine``, ``base`` or ``trained`` in one of the world's ways of walking."""
        return self.path / f"evaluation_{name}{'' if way == ROLLOUT else f'_{way}'}.json"

    def evaluations(self) -> list[Path]:
        """All existing files of measurements."""
        return sorted(self.path.glob("evaluation_*.json"))

    @property
    def evaluated(self) -> Path:
        """The record of a separate evaluation: weights, length, seed."""
        return self.path / "evaluation.json"

    def videos(self, name: str) -> Path:
        """Videos from the evaluation of ``base`` or ``trained``."""
        return self.path / f"videos_{name}.safetensors"

    @property
    def comparison(self) -> Path:
        """The video of before, after and engine next to each other."""
        return self.path / "before_after.mp4"

    @property
    def filmstrips(self) -> Path:
        """The folder of pictures of the same comparison."""
        return self.path / "filmstrips"

    @property
    def report(self) -> Path:
        """The report of the run, an HTML page."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def tracker_id(self) -> Path:
        """The file with the run's id in a tracker."""
        return self.path / "tracker_id"

    def member(self, number: int) -> RunFolder:
        """The folder of one member of an average, counted from 0."""
        return RunFolder(self.path / "members" / str(number))

    def members(self) -> list[RunFolder]:
        """The members that have started, in order."""
        found = [path for path in (self.path / "members").glob("[0-9]*") if path.name.isdecimal()]
        return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name))]

    @property
    def finished(self) -> bool:
        """Whether the run has results and weights."""
        return self.results.is_file() and self.weights.is_dir()


def training_member(folder: RunFolder) -> str:
    """A hint at the newest member, to end a sentence about a run without metrics; empty without members."""
    members = folder.members()
    return f" (its members train in separate folders: see {members[-1].path})" if members else ""


def weights_folder(path: Path, file: str) -> Path:
    """The folder of a run's exported weights; ``path`` itself if it holds the weights.

    Args:
        path: of a run, or of weights.
        file: that must exist, such as ``doom_world.safetensors``.

    Raises:
        UserError: when it does not exist.
    """
    run = RunFolder(path)
    for folder in (run.weights, path):
        if (folder / file).is_file():
            return folder
    if run.record.is_file():
        raise UserError(f"{path} holds an unfinished run: resume it first, with the same command")
    raise UserError(
        f"{path} holds no trained weights: expected a finished run, such as runs/demo, or a folder with {file}"
    )


def owner_of(weights: Path) -> Path:
    """The run that a folder of weights belongs to; the folder itself without a run."""
    run = RunFolder(weights.parent)
    return run.path if weights == run.weights else weights


def claim(
    folder: Path, record: Path, facts: Mapping[str, Any], what: str, needed_bytes: float = 0, lower: str = ""
) -> dict[str, Any] | None:
    """Create an output folder with a record of its purpose, or read the record of an existing one.

    Args:
        folder: new, empty, or claimed before.
        record: the file of the record in the folder.
        facts: the record's content, as JSON values.
        what: the folder holds, with its article, such as ``a run``.
        needed_bytes: that must be free on the disk.
        lower: another remedy for a full disk, such as ``lower --frames``.

    Returns:
        The existing record; None for a new folder.

    Raises:
        UserError: when the folder holds something else, or the disk is too full.
    """
    if record.is_file():
        return read_object(record, f"the record of {what}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        kind = what.removeprefix("a ").removeprefix("an ")
        raise UserError(f"{folder} is not an empty folder and holds no {kind}: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    need_space(folder, needed_bytes, what, lower)
    write_json(record, facts, indent=1)
    return None


def need_space(folder: Path, needed_bytes: float, what: str, lower: str = "") -> None:
    """Check the disk of an existing folder; see ``claim``.

    Raises:
        UserError: when it is too full.
    """
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise UserError(
            f"{folder} has {_size(free)} free, {what} needs {_size(needed_bytes)}: free space or "
            f"{lower or 'choose another --out'}"
        )


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def writable(folder: Path, option: str = "--out") -> None:
    """Check that a folder is writable before long work starts, without leaving new folders behind.

    Args:
        option: where a user named it.

    Raises:
        UserError: when it is not writable, or its name is not UTF-8.
    """
    check_name(folder.absolute())
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in missing:
            path.rmdir()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): expected a writable folder, choose another {option}"
        ) from None


@contextmanager
def exclusive(folder: Path, team: Team) -> Generator[None]:
    """Lock a run's folder against other processes inside the block; the lock ends with the process at the latest.

    Raises:
        UserError: on all ranks, when another process holds the lock.
    """
    handles: list[int] = []
    team.on_main(lambda: handles.append(_lock(folder)))
    try:
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"another process trains into {folder}: wait until it ends, stop it, or choose another --out"
        ) from None
    except OSError:  # the file system does not support locks of folders
        pass
    return handle
