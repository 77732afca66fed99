"""Files that are whole or as they were before: written aside, synced, renamed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def replace_file(path: Path, text: str) -> None:
    """Write a file that, whenever a kill or a full disk comes, holds all of this or what it held before."""
    aside = path.with_name(f".unfinished_{path.name}")
    aside.write_text(text)
    os.replace(aside, path)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that appears under its name only when it is complete.

    Raises:
        OSError: when the disk is full or forbids it.
    """
    aside = path.with_name(f".unfinished_{path.name}")
    try:
        write_through(aside, tensors, metadata)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_through(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; a full disk is an ``OSError`` here too, which safetensors makes its own of."""
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
