"""A run's folder as the doctor sees it; whatever is malformed is named in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from worldcompass.doctor.record import FOLLOWED, USUAL_STEPS, Record
from worldcompass.errors import UserError
from worldcompass.runs.folder import RunFolder, training_member
from worldcompass.runs.metrics import read_metrics, read_object
from worldcompass.statistics import Estimate

# What a row may hold besides its step and rewards, as the checks read it.
PARTS = ("rewards", "seconds", "pictures", "agreement", "no_gradient", "judge", "failed_tries")
# What an event must hold.
EVENT_FIELDS = {
    "refused": ("step", "why"),
    "stopped": ("step", "finding", "evidence"),
    "rolled back": ("step", "to", "finding", "evidence", "lr"),
    "changed": ("step", "settings"),
}
CONFIG, RESULTS = "a run's configuration", "a run's results"
# Key in results.json -> words.
JUDGED = {"judge_accuracy": FOLLOWED, "quality": "realism"}


def read_record(run_dir: Path) -> Record:
    """A run's folder as the doctor sees it; rows of older versions lack some measurements.

    A last line that a kill cut off is left out.

    Raises:
        UserError: when the folder holds no metrics, or they are no metrics of a training run.
    """
    if run_dir.is_file():
        raise UserError(f"{run_dir} is a file: give the folder of a run, such as {run_dir.parent}")
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a run folder: there is no such folder")
    folder = RunFolder(run_dir)
    path = folder.metrics
    rows, events = read_metrics(path), read_metrics(folder.events)
    if not rows and not events:
        raise UserError(
            f"{run_dir} holds no metrics: expected {path.name} with at least one finished step; is this the --out "
            f"of a training run, and has its first step ended?{training_member(folder)}"
        )
    _check_rows(path, rows)
    _check_events(folder.events, events)
    planned, weights = _configured(folder.config)
    return Record(rows, events, planned, weights, evaluated(read_object(folder.results, RESULTS)))


def _check_rows(path: Path, rows: Sequence[Any]) -> None:
    before = 0
    for number, row in enumerate(rows, 1):
        if wrong := _malformed(row):
            raise UserError(f"{path} row {number} is no training step: {wrong} is missing or malformed")
        if row["step"] <= before:
            raise UserError(
                f"{path} row {number} is step {row['step']}, after step {before}: are these two runs in one file?"
            )
        before = row["step"]


def _malformed(row: Any) -> str | None:
    """What is wrong with a row of the metrics."""
    if not isinstance(row, dict):
        return "everything"
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 1:
        return "step"
    if "rewards" not in row:
        return "rewards"
    wrong = next((name for name in PARTS if name in row and not isinstance(row[name], dict)), None)
    if wrong or not all(isinstance(reward, dict) for reward in row["rewards"].values()):
        return wrong or "rewards"
    reached, judged = row.get("no_gradient"), row.get("judge")
    if reached is not None and not (_is_number(reached.get("share")) and _are(reached.get("names"), str)):
        return "no_gradient"
    if judged is not None and not _are(judged.get("values"), int, float):
        return "judge"
    times = row.get("seconds", {}).values()
    return None if all(_is_number(seconds) for seconds in times) else "seconds"


def _check_events(path: Path, events: Sequence[Any]) -> None:
    for number, event in enumerate(events, 1):
        kind = event.get("event") if isinstance(event, dict) else None
        needed = EVENT_FIELDS.get(kind) if isinstance(kind, str) else None
        if needed is None or not all(field in event for field in needed):
            raise UserError(f"{path} row {number} is no event of a run")


def _configured(path: Path) -> tuple[int, dict[str, float]]:
    """Planned steps and weights of the rewards, as far as the run's configuration tells."""
    config = read_object(path, CONFIG)
    steps, weights = config.get("steps", USUAL_STEPS), config.get("weights", {})
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"{path} is not a run's configuration: steps is {steps!r}, not a number above 0")
    if not isinstance(weights, dict) or not all(_is_number(w) for w in weights.values()):
        raise UserError(f"{path} is not a run's configuration: weights are not numbers by name")
    return steps, weights


def evaluated(results: Mapping[str, Any]) -> dict[str, Estimate]:
    """Change from the base to the trained model by the held-out judge, as results.json has it; 95% intervals."""
    difference = results.get("difference", {})
    return {
        f"{words}, {kind}": entry
        for key, words in JUDGED.items()
        for kind, measures in _items(difference)
        if (entry := _estimate(measures.get(key) if isinstance(measures, dict) else None))
    }


def _estimate(entry: Any) -> Estimate | None:
    """An entry of results.json; None where something is missing or unknown."""
    if not isinstance(entry, dict) or not _are(ends := entry.get("ci95"), int, float) or len(ends) != 2:
        return None
    numbers = [entry.get("mean"), *ends]
    return (
        Estimate(*map(float, numbers)) if all(_is_number(n) and math.isfinite(n) for n in numbers) else None
    )


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _are(values: Any, *kinds: type) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and all(isinstance(v, kinds) for v in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
