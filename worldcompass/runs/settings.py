"""The settings that a run was made with, as config.json and other records of it hold them.

Version 2 holds them in groups; before, they stood next to each other, without a version. Either way every setting
has one short name, such as ``lr``, and readers ask for it by that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_object

VERSION = 2
# Where functions that older records name lie now.
MOVED = {
    f"worldcompass.{module}.": f"worldcompass.training.{module}."
    for module in ("advantages", "balance", "objective", "optim")
}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's config.json by their short names; none where there is no file.

    Raises:
        UserError: when it is malformed, or of a version that is not known.
    """
    described = read_object(path, "a run's configuration")
    if (version := described.get("version", 1)) not in (1, VERSION):
        raise UserError(f"{path} has version {version}, this version reads up to {VERSION}")
    return by_short_name(described)


def by_short_name(described: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of either version without their groups, functions by the names they have now."""
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
