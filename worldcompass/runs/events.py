"""Events of a run: refused updates, stops, rollbacks and changed settings, and their file events.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_rows, write_rows


@dataclass(frozen=True)
class Refused:
    """An update that was skipped because a number was not finite."""

    step: int
    why: str


@dataclass(frozen=True)
class Stopped:
    """The doctor stopped the run."""

    step: int
    finding: str
    evidence: str


@dataclass(frozen=True)
class RolledBack:
    """The doctor returned the run to an earlier step."""

    step: int
    to: int
    finding: str
    evidence: str
    lr: float
    """Learning rate after the rollback."""


@dataclass(frozen=True)
class Changed:
    """The run was resumed with changed settings."""

    step: int
    settings: Mapping[str, Sequence[Any]]
    """Name -> the old and the new value."""


Event = Refused | Stopped | RolledBack | Changed
_WORDS: dict[str, type[Event]] = {
    "refused": Refused,
    "stopped": Stopped,
    "rolled back": RolledBack,
    "changed": Changed,
}


def to_json(event: Event) -> dict[str, Any]:
    """The event as a row of the file."""
    word = next(word for word, kind in _WORDS.items() if isinstance(event, kind))
    return {"event": word, **vars(event)}


def from_json(row: object) -> Event:
    """The inverse of ``to_json``.

    Raises:
        ValueError: when the row is no event; it names the reason.
    """
    if not isinstance(row, Mapping):
        raise ValueError("expected one JSON object on each line")
    data = cast("Mapping[str, Any]", row)
    word = data.get("event")
    kind = _WORDS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise ValueError(f"event is {word!r}, expected one of {', '.join(_WORDS)}")
    names = [part.name for part in fields(kind)]
    if missing := [name for name in names if name not in data]:
        raise ValueError(f"{missing[0]} is missing")
    if not isinstance(data["step"], int) or (
        "settings" in names and not isinstance(data["settings"], Mapping)
    ):
        raise ValueError("its step or its settings are malformed")
    return kind(**{name: data[name] for name in names})


def read_events(path: Path) -> list[Event]:
    """The events of a file, without a last line that a kill cut off; none without a file.

    Raises:
        UserError: names the line that is no event, or that is damaged and not the last.
    """
    events: list[Event] = []
    for number, row in read_rows(path):
        try:
            events.append(from_json(row))
        except ValueError as why:
            raise UserError(f"{path} line {number} is no event of a run: {why}") from None
    return events


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Replace a file of events atomically."""
    write_rows(path, map(to_json, events))
