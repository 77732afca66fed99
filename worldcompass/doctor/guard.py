"""The doctor during training: it examines the run after every step and acts as ``on_disease`` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.verdict import Diagnosis, diagnose
from worldcompass.errors import StoppedRun
from worldcompass.runs.checkpoint import CheckpointState
from worldcompass.runs.events import (
    Event,
    Refused,
    RolledBack,
    Stopped,
    read_events,
    to_json,
    write_events,
)
from worldcompass.runs.folder import RunFolder
from worldcompass.runs.metrics import StepMetrics, append_row, read_metrics, write_metrics

OnDisease = Literal["warn", "stop", "rollback"]
MAX_ROLLBACKS = 3  # of one run; the next harmful finding stops it
LOOK_BACK = 30  # steps whose checkpoints are kept for a rollback
LR_AFTER_ROLLBACK = 0.5  # factor of the learning rate


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
        """Read the metrics and events of the run so far; of several processes, one ``writes`` the files."""
        self.writes = writes
        self.folder, self.planned, self.weights, self.on_disease = folder, planned, weights, on_disease
        self.rows = read_metrics(folder.metrics)
        self.events = read_events(folder.events)

    @property
    def num_rollbacks(self) -> int:
        """Rollbacks so far, including those before a resume."""
        return sum(isinstance(event, RolledBack) for event in self.events)

    def examine(self, metrics: StepMetrics) -> Diagnosis:
        """The diagnosis after one more step."""
        self.rows = [*self.rows, metrics]
        return self._diagnose()

    def refused(self, step: int, why: Exception) -> Finding:
        """Record an update that was refused because a number was not finite."""
        self._note(Refused(step, str(why)))
        return self._diagnose().findings[0]

    def disease(self, diagnosis: Diagnosis) -> Finding | None:
        """The finding that requires action; None when the doctor may only warn.

        Its ``since`` is the start of the earliest harmful finding, as only the steps before that are healthy.
        """
        grave = [f for f in diagnosis.findings if f.severity != "warning"]
        if self.on_disease == "warn" or not grave:
            return None
        began = min((f.since for f in grave if f.severity == "harmful"), default=grave[0].since)
        return replace(grave[0], since=began)

    def may_roll_back(self, finding: Finding) -> bool:
        """Whether a rollback can help and some are left."""
        return (
            self.on_disease == "rollback"
            and finding.severity == "harmful"
            and self.num_rollbacks < MAX_ROLLBACKS
        )

    def stop(self, step: int, finding: Finding) -> StoppedRun:
        """Record that the run stops, and return the error to raise after the step is saved."""
        self._note(Stopped(step, finding.name, finding.evidence))
        after = f" after {self.num_rollbacks} rollbacks" if self.num_rollbacks else ""
        return StoppedRun(
            f"stopped by the doctor{after} at step {step}, saved in {self.folder.path}: {finding.cause} "
            f"({finding.evidence}); {finding.advice}"
        )

    def rolled_back(self, step: int, to: int, finding: Finding, lr: float) -> None:
        """Record a rollback, and move the undone rows into a file of their own."""
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


def put_back(folder: RunFolder, state: CheckpointState) -> None:
    """Restore rows and events that a checkpoint holds and the folder has lost; repair a cut-off event."""
    rows, events = read_metrics(folder.metrics), read_events(folder.events)
    if len(state.rows) > sum(row.step <= state.step for row in rows):
        write_metrics(folder.metrics, state.rows)
    if events or state.events:
        write_events(folder.events, events if len(events) >= len(state.events) else state.events)
