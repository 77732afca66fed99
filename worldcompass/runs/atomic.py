"""Atomic writes of files and folders: write to a temporary name, sync, rename.

After a kill or with a full disk, a name holds either all of the new content or its earlier content. Every file
that a later reader relies on is written here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from worldcompass.statistics import Estimate

UNFINISHED = ".unfinished_"


def aside(path: Path) -> Path:
    """The hidden name next to ``path`` for its incomplete content."""
    return path.with_name(f"{UNFINISHED}{path.name}")


@contextmanager
def writing(path: Path, shared: bool = False) -> Generator[Path]:
    """Yield a temporary path for a file or a folder; it becomes ``path`` after the block, or is deleted on failure.

    Args:
        path: an older version is replaced; missing parent folders are created.
        shared: allow several processes or threads to write the same file at once; the last one wins.
    """
    own = f".{os.getpid()}.{threading.get_ident()}" if shared else ""
    unfinished = path.with_name(f"{UNFINISHED}{path.stem}{own}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(unfinished)
    try:
        yield unfinished
        publish(unfinished, path)
    finally:
        remove(unfinished)


def publish(unfinished: Path, path: Path) -> None:
    """Rename a complete file or folder to its final name; content and name are both synced to the disk."""
    folder = unfinished.is_dir()
    for part in sorted(unfinished.rglob("*")) if folder else ():
        sync(part)
    sync(unfinished)
    if folder:
        remove(path)
    os.replace(unfinished, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with its content, if it exists."""
    if path.is_dir():
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

    Raises:
        OSError: when the disk is full or not writable, in place of the error of safetensors.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
