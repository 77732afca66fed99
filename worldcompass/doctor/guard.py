"""The doctor at work while a run trains: he looks after every step, and acts when he was asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from worldcompass.doctor.events import (
    Event,
    Refused,
    RolledBack,
    Stopped,
    from_json,
    read_events,
    to_json,
    write_events,
)
from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.verdict import Diagnosis, diagnose
from worldcompass.errors import StoppedRun
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics, append_row, read_metrics, write_metrics

OnDisease = Literal["warn", "stop", "rollback"]
MAX_ROLLBACKS = 3  # of one run; the next disease stops it
LOOK_BACK = 30  # steps whose checkpoints are kept for a rollback
LR_AFTER_ROLLBACK = 0.5  # of the learning rate before


class Guard:
    """Keeps the record of a run, and writes refused updates, stops and rollbacks into ``events.jsonl``."""

    def __init__(
        self,
        folder: RunFolder,
        planned: int,
        weights: Mapping[str, float],
        on_disease: OnDisease,
        writes: bool = True,
    ) -> None:
        """Take up a run where its metrics end; of several processes, which see the same, one ``writes``."""
        self.writes = writes
        self.folder, self.planned, self.weights, self.on_disease = folder, planned, weights, on_disease
        self.rows = read_metrics(folder.metrics)
        self.events = read_events(folder.events)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as json can hold it: everything that the doctor knows."""
        return {
            "rows": [row.to_json() for row in self.rows],
            "events": [to_json(event) for event in self.events],
        }

    @property
    def num_rollbacks(self) -> int:
        """Rollbacks so far, those before a resume included."""
        return sum(isinstance(event, RolledBack) for event in self.events)

    def examine(self, metrics: StepMetrics) -> Diagnosis:
        """The diagnosis after one more step."""
        self.rows = [*self.rows, metrics]
        return self._diagnose()

    def refused(self, step: int, why: Exception) -> Finding:
        """Note an update that was refused because something was not finite."""
        self._note(Refused(step, str(why)))
        return self._diagnose().findings[0]

    def disease(self, diagnosis: Diagnosis) -> Finding | None:
        """The finding that must be acted on: none when the doctor may only warn.

        It is dated back to where the first of all harmful ones began: only what was before is healthy.
        """
        grave = [f for f in diagnosis.findings if f.severity != "warning"]
        if self.on_disease == "warn" or not grave:
            return None
        began = min((f.since for f in grave if f.severity == "harmful"), default=grave[0].since)
        return replace(grave[0], since=began)

    def may_roll_back(self, finding: Finding) -> bool:
        """Whether going back can help and has not been tried too often."""
        return (
            self.on_disease == "rollback"
            and finding.severity == "harmful"
            and self.num_rollbacks < MAX_ROLLBACKS
        )

    def stop(self, step: int, finding: Finding) -> StoppedRun:
        """Note that the run is stopped; to be raised once the step is saved."""
        self._note(Stopped(step, finding.name, finding.evidence))
        tried = f" after {self.num_rollbacks} rollbacks" if self.num_rollbacks else ""
        return StoppedRun(
            f"stopped by the doctor{tried} at step {step}, saved in {self.folder.path}: {finding.cause} "
            f"({finding.evidence}); {finding.advice}"
        )

    def rolled_back(self, step: int, to: int, finding: Finding, lr: float) -> None:
        """Note a rollback, and put the rows that it undoes aside."""
        undone = [row for row in self.rows if row.step > to]
        if self.writes:
            write_metrics(self.folder.rolled_back(self.num_rollbacks + 1), undone)
        self.rows = [row for row in self.rows if row.step <= to]
        self._note(RolledBack(step, to, finding.name, finding.evidence, lr))

    def _diagnose(self) -> Diagnosis:
        return diagnose(Record(self.rows, self.events, self.planned, self.weights))

    def _note(self, event: Event) -> None:
        self.events = [*self.events, event]
        if self.writes:
            append_row(self.folder.events, to_json(event))


def put_back(folder: RunFolder, state: Mapping[str, Any], step: int) -> None:
    """Write what a checkpoint of ``step`` knows and the folder has lost; an event cut off by a kill is mended.

    Args:
        state: see ``Guard.state``; empty for checkpoints of older versions.
    """
    rows, events = read_metrics(folder.metrics), read_events(folder.events)
    known_rows = [StepMetrics.from_json(row) for row in state.get("rows", ())]
    known_events = [from_json(event) for event in state.get("events", ())]
    if len(known_rows) > sum(row.step <= step for row in rows):
        write_metrics(folder.metrics, known_rows)
    if events or known_events:
        write_events(folder.events, events if len(events) >= len(known_events) else known_events)
