"""Read the settings of a run from config.json and other records.

Version 2 stores settings in groups, version 1 flat and without a version number. Readers get every setting by its
short name, such as ``lr``, from either version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_object

VERSION = 2
# Current modules of functions in older records.
MOVED = {
    f"worldcompass.{module}.": f"worldcompass.training.{module}."
    for module in ("advantages", "balance", "objective", "optim")
}


@dataclass(frozen=True)
class RunSettings:
    """The settings that a run was made with."""

    values: Mapping[str, object] = field(default_factory=dict[str, object])
    """JSON values by the settings' short names; empty when the run stored none."""

    @property
    def steps(self) -> int | None:
        """Planned steps of the training; None when not stored."""
        found = self.values.get("steps")
        return found if isinstance(found, int) else None

    @property
    def seed(self) -> int | None:
        """Seed of the run; None when not stored."""
        found = self.values.get("seed")
        return found if isinstance(found, int) else None

    @property
    def recipe(self) -> str:
        """Name of the recipe; empty for a training from Python."""
        return str(self.values.get("recipe") or "")

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the rewards by name.

        Raises:
            ValueError: when they are something else.
        """
        found = self.values.get("weights", {})
        if isinstance(found, Mapping):
            stored = cast("Mapping[str, object]", found)
            numbers = {
                n: w for n, w in stored.items() if isinstance(w, int | float) and not isinstance(w, bool)
            }
            if len(numbers) == len(stored):
                return numbers
        raise ValueError("weights are not numbers by name")


def read_settings(path: Path) -> RunSettings:
    """The settings in a run's config.json; none without a file.

    Raises:
        UserError: when the file is malformed or has an unknown version.
    """
    described = read_object(path, "a run's configuration")
    if (version := described.get("version", 1)) not in (1, VERSION):
        raise UserError(f"{path} has version {version}, this version reads up to {VERSION}")
    return RunSettings(by_short_name(described))


def by_short_name(described: Mapping[str, object]) -> dict[str, object]:
    """Settings of either version without their groups, with the current names of functions."""
    settings = {name: value for name, value in described.items() if name != "version"}
    if described.get("version") == VERSION:
        for name in [name for name, value in settings.items() if isinstance(value, Mapping)]:
            settings |= cast("Mapping[str, object]", settings.pop(name))
    return {name: _moved(value) for name, value in settings.items()}


def _moved(value: object) -> object:
    if isinstance(value, str):
        for before, now in MOVED.items():
            if value.startswith(before):
                return now + value.removeprefix(before)
    return value
