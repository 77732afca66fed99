"""Files that a run needs: are they there, and do they hold the right tensors? Only headers are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NeededFile:
    """A file that a run reads."""

    path: Path
    what: str
    """What it is and where it comes from."""
    shapes: Mapping[str, tuple[int, ...]] | None = None
    """Tensors that it must hold, exactly; None where only its presence is checked."""


def missing(files: Sequence[NeededFile]) -> list[NeededFile]:
    """Those that are not there."""
    return [file for file in files if not file.path.exists()]


def differences(file: NeededFile) -> list[str]:
    """Names and shapes in which a safetensors file is not what a run expects; only its header is read."""
    if file.shapes is None or file.path.suffix != ".safetensors" or not file.path.is_file():
        return []
    try:
        found = header(file.path)
    except ValueError as why:
        return [f"it is damaged or no safetensors file ({why})"]
    return [
        f"{name} is {found.get(name, 'missing')}, expected {file.shapes.get(name, 'no such tensor')}"
        for name in sorted(file.shapes.keys() | found.keys())
        if file.shapes.get(name) != found.get(name)
    ]


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file's tensors.

    Raises:
        ValueError: when it is not one, or shorter than its header says.
    """
    with path.open("rb") as file:
        start = file.read(8)
        (size,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if not 0 < size <= path.stat().st_size - 8:
            raise ValueError("no header")
        entries = json.loads(file.read(size))
    entries.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + size + end != path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes, {8 + size + end} expected")
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}
