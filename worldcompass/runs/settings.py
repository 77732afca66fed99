"""Read the settings of a run from config.json and other records.

Version 2 stores settings in groups, version 1 flat and without a version number. Readers get every setting by its
short name, such as ``lr``, from either version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_object

VERSION = 2
# Current modules of functions in older records.
MOVED = {
    f"worldcompass.{module}.": f"worldcompass.training.{module}."
    for module in ("advantages", "balance", "objective", "optim")
}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config.json by their short names; none without a file.

    Raises:
        UserError: when the file is malformed or has an unknown version.
    """
    described = read_object(path, "a run's configuration")
    if (version := described.get("version", 1)) not in (1, VERSION):
        raise UserError(f"{path} has version {version}, this version reads up to {VERSION}")
    return by_short_name(described)


def by_short_name(described: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of either version without their groups, with the current names of functions."""
    settings = {name: value for name, value in described.items() if name != "version"}
    if described.get("version") == VERSION:
        groups = [name for name, value in settings.items() if isinstance(value, Mapping)]
        for group in groups:
            settings |= settings.pop(group)
    return {name: _moved(value) for name, value in settings.items()}


def _moved(value: Any) -> Any:
    if isinstance(value, str):
        for before, now in MOVED.items():
            if value.startswith(before):
                return now + value.removeprefix(before)
    return value
