"""What a run folder holds, and what its results say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldcompass.doctor import Diagnosis, Record, diagnose, evaluated, read_record
from worldcompass.errors import UserError
from worldcompass.media import video
from worldcompass.runs.folder import RunFolder, training_member
from worldcompass.runs.metrics import read_metrics, read_object

SCHEMA = 1
LOOK_FRAMES = 6  # of a clip in its filmstrip
KINDS = {"combined": "Combined actions", "basic": "Basic actions"}
# Key in results.json -> (words, whether it is a share shown in percent).
MEASURES = {
    "judge_accuracy": ("Actions followed, held-out judge", True),
    "critic_accuracy": ("Actions followed, reward critic", True),
    "quality": ("Realism, held-out judge", False),
    "sharpness": ("Sharpness, relative to the engine", False),
    "flicker": ("Flicker", False),
    "drift": ("Drift from the first frame", False),
    "colour": ("Colour, distance to the engine's at that moment", False),
}


@dataclass(frozen=True)
class Run:
    """What a run folder holds; everything but one of results and metrics may be missing."""

    folder: Path
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    """One flat row for each training step."""
    diagnosis: Diagnosis
    """Of the evaluation alone where there are no metrics of training steps."""
    config: Mapping[str, Any]
    command: Mapping[str, Any]
    """run.json: command line and environment."""
    video: bytes
    filmstrips: Mapping[str, bytes]
    """By scenario, in words."""
    looks: Mapping[int, bytes]
    """Filmstrip of the clip that each look of the held-out judge left, by step."""


@dataclass(frozen=True)
class Score:
    """One mean with its 95% interval; NaN where unknown."""

    mean: float
    low: float
    high: float
    n: int | None


def load_run(run_dir: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: when it is not one, or a file in it is malformed.
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a run folder: there is no such folder")
    folder = RunFolder(run_dir)
    if not (folder.results.is_file() or folder.metrics.is_file()):
        hint = training_member(folder)
        raise UserError(f"{run_dir} is not a run folder: expected results.json or metrics.jsonl in it{hint}")
    results = read_object(folder.results, "a run's results")
    if results and results.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{folder.results} has schema {results['schema']}, expected {SCHEMA}")
    video = folder.comparison
    return Run(
        folder=run_dir,
        results=results,
        metrics=[flatten(row) for row in _rows(folder.metrics)],
        diagnosis=_diagnosis(run_dir, results),
        config=read_object(folder.config, "a run's configuration"),
        command=read_object(folder.record, "a run's command and environment"),
        video=video.read_bytes() if video.is_file() else b"",
        filmstrips={
            p.stem.replace("_", " "): p.read_bytes() for p in sorted(folder.filmstrips.glob("*.png"))
        },
        looks={step: _strip(clip) for step, clip in folder.clips().items()},
    )


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as ``outer/inner``."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def verdict(run: Run) -> str:
    """The doctor's state, or ``unfinished`` before the evaluation that most of it hangs on is made."""
    return run.diagnosis.state if run.diagnosis.evaluation else "unfinished"


def answer(run: Run) -> str:
    """The verdict in a sentence or two, the doctor's."""
    said = [] if run.diagnosis.evaluation else ["This run has no before-and-after comparison yet."]
    said += [run.diagnosis.answer] if run.diagnosis.evaluation or run.diagnosis.steps else []
    return " ".join(said)


def headline(results: Mapping[str, Any], kind: str) -> str:
    """One sentence, such as ``Combined actions followed: 24.1% → 41.3% (engine 88.0%); 27.0% of the gap …``."""
    base, trained, engine = (
        score(results, side, kind, "judge_accuracy") for side in ("base", "trained", "engine")
    )
    if math.isnan(base.mean) and math.isnan(trained.mean):
        return ""
    text = f"{KINDS[kind]} followed: {percent(base.mean)} → {percent(trained.mean)}"
    if math.isfinite(engine.mean):
        text += f" (engine {percent(engine.mean)})"
    gap = as_score(mapping(results.get("gap_closed")).get(kind))
    if math.isfinite(gap.mean):
        text += f"; {percent(gap.mean)} of the gap closed"
    if math.isfinite(gap.low):
        text += f" (95% interval {percent(gap.low)} to {percent(gap.high)})"
    return text + "."


def score(results: Mapping[str, Any], side: str, kind: str, measure: str) -> Score:
    """One entry of results.json, NaN where it is missing."""
    return as_score(mapping(mapping(results.get(side)).get(kind)).get(measure))


def percent(value: float, digits: int = 1) -> str:
    """A share as percent for people."""
    return f"{100 * value:.{digits}f}%".replace("-", "−") if math.isfinite(value) else "–"


def _strip(clip: Path) -> bytes:
    """PNG of some frames of a clip beside each other."""
    frames = video.read_video(clip)
    return video.png(video.filmstrip(frames, max(1, len(frames) // LOOK_FRAMES)))


def _diagnosis(run_dir: Path, results: Mapping[str, Any]) -> Diagnosis:
    """The doctor's opinion; where the curves are no training steps', of the evaluation alone."""
    try:
        return diagnose(read_record(run_dir))
    except UserError:
        return diagnose(Record((), evaluation=evaluated(results)))


def _rows(path: Path) -> list[Mapping[str, Any]]:
    rows = read_metrics(path)
    if bad := next((row for row in rows if not isinstance(row, dict)), None):
        raise UserError(f"{path} must hold one JSON object on each line, not {type(bad).__name__}")
    return list(rows)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is one, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_score(value: Any) -> Score:
    """An entry of results.json, NaN where something is missing."""
    entry = mapping(value)
    ends = entry.get("ci95")
    ends = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    n = entry.get("n")
    return Score(
        number(entry.get("mean"), math.nan),
        number(ends[0], math.nan),
        number(ends[1], math.nan),
        n if isinstance(n, int) else None,
    )


def is_number(value: Any) -> bool:
    """Whether a metric can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any, otherwise: float) -> float:
    """The value where it is a number."""
    return float(value) if is_number(value) else otherwise
