"""Atomic writes of files and folders: write to a temporary name, sync, rename.

After a kill or with a full disk, a name holds either all of the new content or its earlier content. Every file
that a later reader relies on is written here.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import math
import os
import re
import shutil
import threading
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.statistics import Estimate

UNFINISHED = ".unfinished_"
LONGEST = 100  # bytes of a name's own part in the name of its incomplete content
# Errors of file systems that cannot flush, such as some network shares for folders.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


def aside(path: Path) -> Path:
    """The hidden name next to ``path`` for its incomplete content."""
    return path.with_name(f"{UNFINISHED}{path.name}")


@contextmanager
def writing(path: Path, shared: bool = False) -> Generator[Path]:
    """Yield a temporary path for a file or a folder; it becomes ``path`` after the block, or is deleted on failure.

    Args:
        path: an older version is replaced; missing parent folders are created.
        shared: allow several processes or threads to write the same file at once, as for every output that a user
            names; the last one wins.

    Raises:
        UserError: when ``path`` is not a name that a file can have.
    """
    check_name(path)
    path = path.resolve() if path.is_symlink() else path  # a link stays, what it leads to is replaced
    own = f".{os.getpid()}.{threading.get_ident()}" if shared else ""
    stem = (
        path.stem if len(os.fsencode(path.name)) <= LONGEST else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    )
    unfinished = path.with_name(f"{UNFINISHED}{stem}{own}{path.suffix[-LONGEST:]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        _remove_leftovers(path.parent, f"{UNFINISHED}{stem}")
    remove(unfinished)
    try:
        yield unfinished
        publish(unfinished, path)
    except OSError as error:
        if isinstance(error.filename, str):  # a user knows the final name
            error.filename = error.filename.replace(str(unfinished), str(path))
        raise
    finally:
        remove(unfinished)


def check_name(path: Path) -> None:
    """Check a name to write before long work starts; a missing parent folder is no error.

    Raises:
        UserError: when it is no name of a file or folder, one of a device, or not UTF-8, which safetensors and JSON
            need.
        OSError: when it is too long for the file system.
    """
    if not path.name:
        raise UserError(f"{path} has no name of its own: name a file or a new folder")
    try:
        os.fspath(path.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fspath(path)!r} is not UTF-8: choose a name in UTF-8") from None
    if path.exists() and not (path.is_file() or path.is_dir()):  # which fails for a name that is too long
        raise UserError(f"{path} is a device or a pipe, which would be replaced: name a file or a new folder")


def _remove_leftovers(folder: Path, stem: str) -> None:
    """Delete what processes of this machine left behind when they were killed."""
    for path in folder.glob(f"{glob.escape(stem)}.*"):
        process = path.name.removeprefix(stem).split(".")[1]
        if process.isdigit() and int(process) != os.getpid() and not _runs(int(process)):
            remove(path)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def publish(unfinished: Path, path: Path) -> None:
    """Rename a complete file or folder to its final name; content and name are both synced to the disk."""
    folder = unfinished.is_dir()
    for part in sorted(unfinished.rglob("*")) if folder else ():
        sync(part)
    sync(unfinished)
    if folder:
        remove(path)
    elif path.is_dir():  # else the error names the temporary file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    os.replace(unfinished, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, shared: bool = False) -> Path:
    """Write a UTF-8 text file; see ``writing``."""
    with writing(path, shared) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any, indent: int | None = None, shared: bool = False) -> Path:
    """Write a JSON file, on one line or indented; see ``writing``."""
    return write_text(path, json.dumps(value, indent=indent) + "\n", shared)


def finite(value: Any) -> Any:
    """Convert to JSON values: dataclasses become objects, and numbers that are not finite become None."""
    if isinstance(value, Estimate):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: finite(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in cast("Sequence[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; see ``writing``.

    Raises:
        OSError: when the disk is full or not writable.
    """
    with writing(path) as unfinished:
        save_tensors(unfinished, tensors, metadata)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file directly, for folders that are themselves unfinished.

    Like other new files it gets the permissions that the umask leaves; safetensors alone makes it private.

    Raises:
        OSError: when the disk is full or not writable, in place of the error of safetensors.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        if number := re.search(r"(?:os error|code:) (\d+)", str(error)):  # the latter before safetensors 0.6
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)
