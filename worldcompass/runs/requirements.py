"""Checks of the files and packages that a run needs; of tensors only the headers are read."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from worldcompass.errors import UserError
from worldcompass.runs.reading import parse_json, read_json, reason

GIB = 1 << 30  # bytes
# Suffix of the index of weights that are split into several files.
INDEX = ".index.json"


@dataclass(frozen=True)
class NeededFile:
    """A file that a run reads."""

    path: Path
    what: str
    """Its content and origin."""
    shapes: Mapping[str, tuple[int, ...]] | None = None
    """The exact names and shapes of its tensors; when None only its presence is checked."""
    names_and_shapes: Callable[[Path], Mapping[str, tuple[int, ...]]] | None = None
    """Reads names and shapes without the values; by default from the header of a safetensors file."""


@dataclass(frozen=True)
class NeededModule:
    """A Python package that a run imports."""

    name: str
    install: str
    """Command or hint to install it."""

    @property
    def here(self) -> bool:
        """Whether it is installed, without importing it."""
        return has_package(self.name)


def has_package(name: str) -> bool:
    """Whether a package with code can be imported, without importing it.

    A folder of that name without any, such as the one that a tracker writes to, is none.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent package is missing
        return False
    return spec is not None and spec.origin is not None


def need_version(package: str) -> None:
    """Check that an installed package is as new as worldcompass declares, for one whose older versions crash.

    pip only warns when another package puts an older one in its place.

    Raises:
        UserError: naming both versions.
    """
    try:
        declared, found = metadata.requires("worldcompass") or [], metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return
    bounds = [
        line.removeprefix(f"{package}>=").split(";")[0]
        for line in declared
        if line.startswith(f"{package}>=")
    ]
    if any(_numbers(found) < _numbers(bound) for bound in bounds):
        raise UserError(
            f"{package} {found} is installed, whose faults end worldcompass or change its results: it needs"
            f" {bounds[0]} or newer, pip install '{package}>={bounds[0]}'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def visible(folder: Path, pattern: str) -> list[Path]:
    """A folder's matching files by name, without hidden ones, which killed processes may leave unfinished.

    Raises:
        OSError: when the folder exists and may not be listed, which ``glob`` takes for an empty one.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(folder / name for name in fnmatch.filter(names, pattern) if not name.startswith("."))


def lacking(files: Sequence[NeededFile], modules: Sequence[NeededModule] = ()) -> list[str]:
    """Descriptions of all missing files and packages.

    Raises:
        UserError: for an unreadable index.
    """
    return [
        *(f"{file.path} ({file.what})" for file in missing(files)),
        *(f"Python package {module.name} ({module.install})" for module in modules if not module.here),
    ]


def lacks(who: str, things: Sequence[str], remedy: str) -> str:
    """The error for missing things: one sentence, and several of them as a list below it, a line each."""
    if len(things) == 1:
        return f"{who} lacks {things[0]}: {remedy}"
    return "\n  ".join([f"{who} lacks {len(things)} inputs, listed below: {remedy}", *things])


def missing(files: Sequence[NeededFile]) -> list[NeededFile]:
    """The missing files; of split files each missing part.

    Raises:
        UserError: for an unreadable index.
    """
    return [replace(file, path=part) for file in files for part in parts(file.path) if not part.exists()]


def parts(path: Path) -> list[Path]:
    """The files with the tensors of ``path``: itself, or the files of its index if only that exists.

    Raises:
        UserError: for an unreadable index.
    """
    index = path.with_name(path.name + INDEX)
    if path.exists() or not index.is_file():
        return [path]
    try:
        names = set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise UserError(
            f"{index} is not an index of weights ({reason(why)}): expected 'weight_map' with file names"
        ) from why
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise UserError(f"{index} must list files in its folder: download it again")
    return [path.with_name(name) for name in sorted(names)]


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(file: NeededFile) -> list[str]:
    """Differences between a file's names and shapes and the expected ones; tensor values are not read.

    Raises:
        UserError: for an unreadable index.
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
        ValueError: when it is not a safetensors file, or its size disagrees with its header.
    """
    with path.open("rb") as file:
        start = file.read(8)
        (size,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if not 0 < size <= path.stat().st_size - 8:
            raise ValueError("no header")
        entries = parse_json(file.read(size))
    try:
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except (AttributeError, KeyError, IndexError, TypeError) as why:
        raise ValueError("its header does not list tensors") from why
    if 8 + size + end != path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes, {8 + size + end} expected")
    return shapes
