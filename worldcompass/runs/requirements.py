"""What a run needs: is it there, and do files hold the right tensors? Only headers are read."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldcompass.errors import UserError

INDEX = (
    ".index.json"  # behind a file's name: which files hold its tensors, where they are spread over several
)


@dataclass(frozen=True)
class NeededFile:
    """A file that a run reads."""

    path: Path
    what: str
    """What it is and where it comes from."""
    shapes: Mapping[str, tuple[int, ...]] | None = None
    """Tensors that it must hold, exactly; None where only its presence is checked."""
    names_and_shapes: Callable[[Path], Mapping[str, tuple[int, ...]]] | None = None
    """How to read them without their numbers; the header of a safetensors file when None."""


@dataclass(frozen=True)
class NeededModule:
    """A Python package that a run imports."""

    name: str
    install: str
    """How to get it."""

    @property
    def here(self) -> bool:
        """Whether it is installed; nothing is imported."""
        return importlib.util.find_spec(self.name) is not None


def visible(folder: Path, pattern: str) -> list[Path]:
    """A folder's files by name, without hidden ones: those that a killed process left unfinished are hidden."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def lacking(files: Sequence[NeededFile], modules: Sequence[NeededModule] = ()) -> list[str]:
    """What is not there, in words.

    Raises:
        UserError: for an index that cannot be read.
    """
    return [
        *(f"{file.path} ({file.what})" for file in missing(files)),
        *(f"Python package {module.name} ({module.install})" for module in modules if not module.here),
    ]


def missing(files: Sequence[NeededFile]) -> list[NeededFile]:
    """Those that are not there; of files in several parts each part by itself.

    Raises:
        UserError: for an index that cannot be read.
    """
    return [replace(file, path=part) for file in files for part in parts(file.path) if not part.exists()]


def parts(path: Path) -> list[Path]:
    """What holds the tensors of ``path``: itself, or where there is only its index, the files that this names.

    Raises:
        UserError: for an index that cannot be read.
    """
    index = path.with_name(path.name + INDEX)
    if path.exists() or not index.is_file():
        return [path]
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise UserError(f"{index} is no index of weights: expected 'weight_map' with file names") from why
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{index} must name files of its own folder: fetch it again")
    return [path.with_name(name) for name in sorted(names)]


def differences(file: NeededFile) -> list[str]:
    """Names and shapes in which a file is not what a run expects; no tensor's numbers are read.

    Raises:
        UserError: for an index that cannot be read.
    """
    if file.shapes is None or missing([file]):
        return []
    read = file.names_and_shapes or header
    found: dict[str, tuple[int, ...]] = {}
    for part in parts(file.path):
        try:
            found |= read(part)
        except ValueError as why:
            return [f"{part.name} is damaged or no safetensors file ({why}): fetch it again"]
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
    try:
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except (AttributeError, KeyError, IndexError, TypeError) as why:
        raise ValueError("its header does not list tensors") from why
    if 8 + size + end != path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes, {8 + size + end} expected")
    return shapes
