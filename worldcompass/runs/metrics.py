"""The metrics of a run: metrics.jsonl, append-only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_text


class MetricsLog:
    """Appends one json object per step to a file; opened at a step, it forgets what was logged after it.

    Where another process ``writes``, it does nothing.
    """

    def __init__(self, path: Path, resumed_step: int = 0, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        rewrite(path, [row for row in read_metrics(path) if row["step"] <= resumed_step])

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the metrics of one step; ``row`` holds ``step``."""
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; none when there is no file, and an end cut off by a kill is left out.

    Raises:
        UserError: when a line is damaged and whole ones follow: then more than the end is lost.
    """
    rows, damaged = [], 0
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else [], 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            damaged = damaged or number
            continue
        if row is None:
            continue
        if damaged:
            raise UserError(
                f"{path} line {damaged} is damaged and whole ones follow it: delete that line to go on"
            )
        rows.append(row)
    return rows


def read_object(path: Path, what: str) -> dict[str, Any]:
    """What the JSON file of an object holds, nothing where there is no file.

    Args:
        what: the file should be, for the error, such as "a run's results".

    Raises:
        UserError: when it is not one JSON object.
    """
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not {what}: it is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not {what}: expected one JSON object, not {type(value).__name__}")
    return value


def rewrite(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a metrics file by these rows, at once."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
