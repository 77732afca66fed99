"""What happened to a run besides its steps, and its file: events.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.metrics import read_rows, write_rows


@dataclass(frozen=True)
class Refused:
    """An update that was not made because something was not finite."""

    step: int
    why: str


@dataclass(frozen=True)
class Stopped:
    """The doctor ended the run."""

    step: int
    finding: str
    evidence: str


@dataclass(frozen=True)
class RolledBack:
    """The doctor went back to an earlier step."""

    step: int
    to: int
    finding: str
    evidence: str
    lr: float
    """Learning rate since."""


@dataclass(frozen=True)
class Changed:
    """The run was resumed with other settings."""

    step: int
    settings: Mapping[str, Sequence[Any]]
    """Before and now, by name."""


Event = Refused | Stopped | RolledBack | Changed
_WORDS: dict[str, type[Event]] = {
    "refused": Refused,
    "stopped": Stopped,
    "rolled back": RolledBack,
    "changed": Changed,
}


def to_json(event: Event) -> dict[str, Any]:
    """The row as the file holds it."""
    word = next(word for word, kind in _WORDS.items() if isinstance(event, kind))
    return {"event": word, **vars(event)}


def from_json(row: object) -> Event:
    """The inverse of ``to_json``.

    Raises:
        ValueError: when it is no event.
    """
    if not isinstance(row, Mapping):
        raise ValueError("expected one JSON object on each line")
    word = row.get("event")
    kind = _WORDS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise ValueError(f"event is {word!r}, expected one of {', '.join(_WORDS)}")
    names = [part.name for part in fields(kind)]
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"{missing[0]} is missing")
    if not isinstance(row["step"], int) or ("settings" in names and not isinstance(row["settings"], Mapping)):
        raise ValueError("its step or its settings are malformed")
    return kind(**{name: row[name] for name in names})


def read_events(path: Path) -> list[Event]:
    """The events of a file; none when there is no file, and an end cut off by a kill is left out.

    Raises:
        UserError: naming the line that is no event, or is damaged while whole ones follow it.
    """
    events = []
    for number, row in read_rows(path):
        try:
            events.append(from_json(row))
        except ValueError as why:
            raise UserError(f"{path} line {number} is no event of a run: {why}") from None
    return events


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Replace a file of events, at once."""
    write_rows(path, map(to_json, events))
