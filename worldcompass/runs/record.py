"""The record of a run's beginning, run.json: recipe, versions, command, machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_object


@dataclass(frozen=True)
class RunRecord:
    """How a run began; runs of earlier versions and plain trainings lack entries, which are empty then."""

    recipe: Mapping[str, object] = field(default_factory=dict[str, object])
    """All settings of the recipe as JSON values, its ``config`` among them."""
    version: str = ""
    """Of this package."""
    world: str = ""
    """Name of the world."""
    weights: str = ""
    """Version of the base weights."""
    command: str = ""
    python: str = ""
    torch: str = ""
    threads: int = 0
    """Of PyTorch."""
    machine: str = ""
    """Kind of processor."""
    started: str = ""
    """When, as an ISO date of UTC."""
    changed: Mapping[str, object] = field(default_factory=dict[str, object])
    """Settings that changed when the run was last resumed: name -> the old and the new value."""

    @property
    def members(self) -> int:
        """Number of runs whose weights are averaged."""
        found = self.recipe.get("members", 1)
        return found if isinstance(found, int) else 1

    @property
    def evaluation_seeds(self) -> tuple[int, ...]:
        """Noise seeds of the evaluation; empty when not stored."""
        found = self.recipe.get("evaluation_seeds")
        return tuple(cast("list[int]", found)) if isinstance(found, list) else ()

    def to_json(self) -> dict[str, Any]:
        """The entries that are known."""
        return {name: value for name, value in vars(self).items() if value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RunRecord:
        """The inverse of ``to_json``; unknown entries are ignored.

        Raises:
            ValueError: names the entry that is malformed.
        """
        plain = RunRecord()
        found = {part.name: data[part.name] for part in fields(RunRecord) if part.name in data}
        for name, value in found.items():
            usual: object = getattr(plain, name)
            if not isinstance(value, Mapping if isinstance(usual, Mapping) else type(usual)):
                raise ValueError(f"{name} is malformed")
        return RunRecord(**found)


def read_run_record(path: Path) -> RunRecord:
    """The record in a file; an empty one without a file.

    Raises:
        UserError: when the file is malformed.
    """
    what = "a run's command and environment"
    data = read_object(path, what)
    try:
        return RunRecord.from_json(data)
    except ValueError as why:
        raise UserError(f"{path} is not {what}: {why}") from None
