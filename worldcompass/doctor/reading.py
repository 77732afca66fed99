"""Reads a run's folder into a ``Record``; malformed files give one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from worldcompass.doctor.record import FOLLOWED, USUAL_STEPS, Record
from worldcompass.errors import UserError
from worldcompass.runs.events import read_events
from worldcompass.runs.folder import RunFolder, training_member
from worldcompass.runs.metrics import StepMetrics, read_metrics
from worldcompass.runs.results import Results, read_results
from worldcompass.runs.settings import read_settings
from worldcompass.statistics import Estimate

CONFIG = "a run's configuration"
# Key in results.json -> its name in a record.
JUDGED = {"judge_accuracy": FOLLOWED, "quality": "realism"}


def read_record(run_dir: Path) -> Record:
    """The record of a run's folder, without a last line that a kill cut off.

    Rows of older versions lack some measurements.

    Raises:
        UserError: when the folder holds no metrics, or those of something else than a training run.
    """
    if run_dir.is_file():
        raise UserError(f"{run_dir} is a file: expected the folder of a run, such as {run_dir.parent}")
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a run folder: there is no such folder")
    folder = RunFolder(run_dir)
    path = folder.metrics
    rows, events = read_metrics(path), read_events(folder.events)
    if not rows and not events:
        raise UserError(
            f"{run_dir} holds no metrics: expected {path.name} with at least one finished step; name the --out of "
            f"a training run whose first step is finished{training_member(folder)}"
        )
    _check_order(path, rows)
    planned, weights, probed = _configured(folder.config)
    return Record(rows, events, planned, weights, evaluated(read_results(folder.results)), probed)


def _check_order(path: Path, rows: Sequence[StepMetrics]) -> None:
    for before, row in pairwise(rows):
        if row.step <= before.step:
            raise UserError(
                f"{path} has step {row.step} after step {before.step}: expected one run, not two runs in one file"
            )


def _configured(path: Path) -> tuple[int, Mapping[str, float], bool]:
    """Planned steps, weights of the rewards and whether it probes, from the run's configuration, with defaults."""
    config = read_settings(path)
    steps = config.values.get("steps", USUAL_STEPS)
    if not isinstance(steps, int) or steps < 1:
        raise UserError(f"{path} is not a run's configuration: steps is {steps!r}, expected a number above 0")
    try:
        return steps, config.weights, bool(config.values.get("probe_every"))
    except ValueError as why:
        raise UserError(f"{path} is not a run's configuration: {why}") from None


def evaluated(results: Results) -> dict[str, Estimate]:
    """Changes from the base to the trained model by the held-out judge, by name; 95% intervals."""
    return {
        f"{words}, {kind}": scores[measure]
        for measure, words in JUDGED.items()
        for kind, scores in results.evaluation.difference.items()
        if measure in scores and scores[measure].bounded
    }
