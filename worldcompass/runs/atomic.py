"""Files and folders that are whole or as they were before: written aside, synced, renamed.

Whenever a kill or a full disk comes, a name holds all of the new content or what it held before. All files that a
later reader relies on go through here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from worldcompass.statistics import Estimate

UNFINISHED = ".unfinished_"


def aside(path: Path) -> Path:
    """Where the content of ``path`` is written until it is complete: next to it, under a hidden name."""
    return path.with_name(f"{UNFINISHED}{path.name}")


@contextmanager
def writing(path: Path, shared: bool = False) -> Iterator[Path]:
    """The path to write a file or a folder to; it becomes ``path`` when the block ends, and goes when it fails.

    Args:
        path: may hold an older version, which is replaced. Missing folders above it are made.
        shared: several processes or threads may write the same file at once; the last one wins.
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
    """Give what is complete its name, with all of it on the disk before and the name after."""
    folder = unfinished.is_dir()
    for part in sorted(unfinished.rglob("*")) if folder else ():
        sync(part)
    sync(unfinished)
    if folder:
        remove(path)
    os.replace(unfinished, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, shared: bool = False) -> Path:
    """Write a file of text, UTF-8; see ``writing``."""
    with writing(path, shared) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any, indent: int | None = None, shared: bool = False) -> Path:
    """Write what JSON can hold, as one line or indented; see ``writing``."""
    return write_text(path, json.dumps(value, indent=indent) + "\n", shared)


def finite(value: Any) -> Any:
    """The same for JSON: dataclasses by their fields, None for the numbers that it has no word for."""
    if isinstance(value, Estimate):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: finite(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; see ``writing``.

    Raises:
        OSError: when the disk is full or forbids it.
    """
    with writing(path) as unfinished:
        save_tensors(unfinished, tensors, metadata)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file at once, inside of a folder that is itself unfinished.

    Raises:
        OSError: when the disk is full or forbids it; safetensors has an error of its own for that.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def sync(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
