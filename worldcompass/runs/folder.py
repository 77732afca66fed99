"""The folder of a run: where everything in it is, who may write to it, which weights in it are final."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.parallel.team import Team
from worldcompass.runs.atomic import write_json
from worldcompass.runs.metrics import read_object

CLIPS = "step_*.mp4"


@dataclass(frozen=True)
class RunFolder:
    """Names every path of a run once. Nothing has to be there."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration that the run trained with last."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row for each training step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What the doctor did, and settings that changed."""
        return self.path / "events.jsonl"

    def rolled_back(self, number: int) -> Path:
        """The rows that a rollback undid, counted from 1."""
        return self.path / f"rolled_back_{number}.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Clips of looks during training."""
        return self.path / "samples"

    @property
    def untrained(self) -> Path:
        """The clip of the first look's scenarios before training."""
        return self.samples / "before.mp4"

    def clip(self, step: int) -> Path:
        """The clip of the look after a step."""
        return self.samples / f"step_{step:06d}.mp4"

    def clips(self) -> dict[int, Path]:
        """The clips that are there, by step."""
        return {int(path.stem.removeprefix("step_")): path for path in sorted(self.samples.glob(CLIPS))}

    @property
    def weights(self) -> Path:
        """What the recipe exported, in the formats of its world."""
        return self.path / "weights"

    @property
    def final(self) -> Path:
        """Which checkpoint the exported weights are of."""
        return self.path / "final.json"

    @property
    def record(self) -> Path:
        """What the run was begun with: recipe, versions, command, machine."""
        return self.path / "run.json"

    @property
    def results(self) -> Path:
        """What the evaluation measured."""
        return self.path / "results.json"

    def evaluation(self, name: str) -> Path:
        """Single measurements of ``engine``, ``base`` or ``trained``."""
        return self.path / f"evaluation_{name}.json"

    def evaluations(self) -> list[Path]:
        """All measurements that are there."""
        return sorted(self.path.glob("evaluation_*.json"))

    @property
    def evaluated(self) -> Path:
        """What an evaluation on its own was begun with: weights, length, seed."""
        return self.path / "evaluation.json"

    def videos(self, name: str) -> Path:
        """Videos kept of the evaluation of ``base`` or ``trained``."""
        return self.path / f"videos_{name}.safetensors"

    @property
    def comparison(self) -> Path:
        """The video of before, after and engine next to each other."""
        return self.path / "before_after.mp4"

    @property
    def filmstrips(self) -> Path:
        """Pictures of the same comparison."""
        return self.path / "filmstrips"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """What TensorBoard reads."""
        return self.path / "tensorboard"

    @property
    def tracker_id(self) -> Path:
        """The name that a tracker knows the run by."""
        return self.path / "tracker_id"

    def member(self, number: int) -> RunFolder:
        """The run of one member of an average, counted from 0."""
        return RunFolder(self.path / "members" / str(number))

    def members(self) -> list[RunFolder]:
        """The members that have begun, in their order."""
        found = (self.path / "members").glob("[0-9]*")
        return [RunFolder(path) for path in sorted(found, key=lambda path: int(path.name))]

    @property
    def finished(self) -> bool:
        """Whether the run has results and weights."""
        return self.results.is_file() and self.weights.is_dir()


def training_member(folder: RunFolder) -> str:
    """The end of a sentence for a run without metrics whose first member still trains; empty for other runs."""
    members = folder.members()
    return f" (its members train in folders of their own: ask for {members[-1].path})" if members else ""


def weights_folder(path: Path, file: str) -> Path:
    """Where a run keeps its exported weights; a folder of weights is that folder itself.

    Args:
        path: of a run, or of weights.
        file: that must be there, such as ``doom_world.safetensors``.

    Raises:
        UserError: when it is not.
    """
    run = RunFolder(path)
    for folder in (run.weights, path):
        if (folder / file).is_file():
            return folder
    if run.record.is_file():
        raise UserError(f"{path} holds a run that is not finished: resume it first, with the same command")
    raise UserError(
        f"{path} holds no trained weights: expected a finished run, such as runs/demo, or a folder with {file}"
    )


def owner_of(weights: Path) -> Path:
    """The run that a folder of weights lies in; the folder itself where it is in none."""
    run = RunFolder(weights.parent)
    return run.path if weights == run.weights else weights


def claim(
    folder: Path, record: Path, facts: Mapping[str, Any], what: str, needed_bytes: float = 0, lower: str = ""
) -> dict[str, Any] | None:
    """Make an output folder and note in ``record`` what it is for; or read what was noted there.

    Args:
        folder: new, empty, or claimed before.
        record: the file in it.
        facts: what JSON can hold.
        what: the folder holds, with its article, such as ``a run``.
        needed_bytes: that must be free on the disk.
        lower: what else would help where they are not, such as ``lower --frames``.

    Returns:
        What was noted; None where the folder is new.

    Raises:
        UserError: when it holds something else, or the disk is too full.
    """
    if record.is_file():
        return read_object(record, f"the record of {what}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        kind = what.removeprefix("a ").removeprefix("an ")
        raise UserError(f"{folder} is not an empty folder and holds no {kind}: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < needed_bytes:
        raise UserError(
            f"{folder} has {_size(free)} free, {what} needs {_size(needed_bytes)}: free space or "
            f"{lower or 'choose another --out'}"
        )
    write_json(record, facts, indent=1)
    return None


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def writable(folder: Path) -> None:
    """See that a run can write to its folder, before long work starts; a folder that was not there is not left.

    Raises:
        UserError: when it cannot.
    """
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in missing:
            path.rmdir()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): expected a folder of your own, choose another --out"
        ) from None


@contextmanager
def alone_in(folder: Path, team: Team) -> Iterator[None]:
    """Inside, no other run trains into this folder; the lock ends with the process, however that ends.

    Raises:
        UserError: on all ranks, when another process holds the folder.
    """
    held: list[int] = []
    team.on_main(lambda: held.append(_lock(folder)))
    try:
        yield
    finally:
        for handle in held:
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
    except OSError:  # a file system that cannot lock folders
        pass
    return handle
