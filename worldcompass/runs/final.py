"""The record that links a run's exported weights to their checkpoint.

The record names the checkpoint by step and checksum, as times of files change with copies, clocks and file systems.
Exported weights are final while their checkpoint is the run's newest.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.checkpoint import STATE, latest_checkpoint, step_of
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.settings import read_settings

FORMAT = 1


@contextmanager
def exporting(folder: RunFolder, writes: bool = True) -> Generator[Path]:
    """Yield the folder to export a run's weights to, and write the record after the block.

    An earlier record is deleted first, so that it never names files that a kill left half replaced.

    Args:
        folder: of the run, whose newest checkpoint holds the weights.
        writes: True in exactly one of several processes.
    """
    if writes:
        folder.final.unlink(missing_ok=True)
    yield folder.weights
    if writes:
        _note(folder)


def final_weights(folder: RunFolder) -> list[Path]:
    """The files in ``folder.weights`` if they belong to the newest checkpoint, else none.

    Without a record, as in runs of earlier versions, they do if that checkpoint is of the last configured step:
    recipes export right after it.

    Raises:
        UserError: when a file that the record names is missing.
    """
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        return []
    if not folder.final.is_file():
        planned = read_settings(folder.config).get("steps")
        return _exported(folder) if planned == step_of(newest) else []
    noted = read_object(folder.final, "a record of final weights")
    if noted.get("format") != FORMAT:
        raise UserError(f"{folder.final} has format {noted.get('format')}, this version reads {FORMAT}")
    if (noted["step"], noted["checksum"]) != _name_of(newest):
        return []
    files = [folder.weights / name for name in noted["files"]]
    if lost := [file for file in files if not file.is_file()]:
        raise UserError(
            f"{lost[0]} is missing, which {folder.final} lists: copy the whole run, or resume it to export again"
        )
    return files


def keep_record(folder: RunFolder) -> None:
    """Write a missing record before further training, for runs of earlier versions."""
    if not folder.final.is_file() and final_weights(folder):
        _note(folder)


def _note(folder: RunFolder) -> None:
    newest = latest_checkpoint(folder.checkpoints)
    assert newest is not None, "weights are exported after a checkpoint"
    step, checksum = _name_of(newest)
    files = [file.relative_to(folder.weights).as_posix() for file in _exported(folder)]
    write_json(folder.final, {"format": FORMAT, "step": step, "checksum": checksum, "files": files}, indent=1)


def _exported(folder: RunFolder) -> list[Path]:
    return sorted(path for path in folder.weights.rglob("*") if path.is_file())


def _name_of(checkpoint: Path) -> tuple[int, str | None]:
    """Step and checksum; the latter is None for checkpoints of early versions."""
    return step_of(checkpoint), json.loads((checkpoint / STATE).read_bytes()).get("checksum")
