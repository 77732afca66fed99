"""The record that links a run's exported weights to their checkpoint.

The record names the checkpoint by step and checksum, as times of files change with copies, clocks and file systems.
Exported weights are final while their checkpoint is the run's newest.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.checkpoint import STATE, latest_checkpoint, step_of
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import read_object
from worldcompass.runs.reading import parse_json
from worldcompass.runs.settings import read_settings

FORMAT = 1


@contextmanager
def exporting(folder: RunFolder, writes: bool = True) -> Generator[Path]:
    """Yield the folder to export a run's weights to, and write the record after the block.

    An earlier record is replaced first by one of no checkpoint, so that after a kill no half replaced files count.

    Args:
        folder: of the run, whose newest checkpoint holds the weights.
        writes: True in exactly one of several processes.
    """
    if writes:
        _write(folder, step=None, checksum=None, files=[])
    yield folder.weights
    if writes:
        _note(folder)


def final_weights(folder: RunFolder) -> list[Path]:
    """The files in ``folder.weights`` if they belong to the newest checkpoint, else none.

    Without a record, as in runs of earlier versions, they do if that checkpoint is of the last configured step:
    recipes export right after it.

    Raises:
        UserError: when the record is malformed, or a file that it names is missing.
    """
    newest = latest_checkpoint(folder.checkpoints)
    if newest is None:
        return []
    if not folder.final.is_file():
        planned = read_settings(folder.config).steps
        return _exported(folder) if planned == step_of(newest) else []
    noted = read_object(folder.final, "a record of final weights")
    if noted.get("format") != FORMAT:
        raise UserError(f"{folder.final} has format {noted.get('format')}, this version reads {FORMAT}")
    if (noted.get("step"), noted.get("checksum")) != _name_of(newest):
        return []
    files = _files(noted.get("files"), folder)
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
    _write(folder, step, checksum, files)


def _write(folder: RunFolder, step: int | None, checksum: str | None, files: list[str]) -> None:
    record = {"format": FORMAT, "step": step, "checksum": checksum, "files": files}
    write_json(folder.final, record, indent=1)


def _files(names: object, folder: RunFolder) -> list[Path]:
    """The files that a record names, which must lie in the folder of weights: a run may come from anybody."""
    paths = [Path(str(name)) for name in cast("list[object]", names)] if isinstance(names, list) else None
    if paths is None or any(path.is_absolute() or ".." in path.parts for path in paths):
        raise UserError(
            f"{folder.final} is not a record of final weights: expected files of {folder.weights}"
        )
    return [folder.weights / path for path in paths]


def _exported(folder: RunFolder) -> list[Path]:
    return sorted(path for path in folder.weights.rglob("*") if path.is_file())


def _name_of(checkpoint: Path) -> tuple[int, str | None]:
    """Step and checksum; the latter is None for checkpoints of early versions, and for damaged ones."""
    try:
        return step_of(checkpoint), parse_json((checkpoint / STATE).read_bytes()).get("checksum")
    except (ValueError, AttributeError):
        return step_of(checkpoint), None
