"""The content of a run folder, and its results in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldcompass.doctor import Diagnosis, Record, diagnose, evaluated, read_record
from worldcompass.errors import UserError
from worldcompass.evaluate import FOLLOWED, gap_share
from worldcompass.media import video
from worldcompass.runs.folder import RunFolder, training_member
from worldcompass.runs.metrics import StepMetrics, read_metrics
from worldcompass.runs.record import RunRecord, read_run_record
from worldcompass.runs.results import Evaluation, Results, read_results
from worldcompass.runs.settings import RunSettings, read_settings
from worldcompass.statistics import UNKNOWN, percent
from worldcompass.ways import ROLLOUT

LOOK_FRAMES = 6  # of a filmstrip
UNMEASURED = percent(UNKNOWN.mean)
KINDS = {"combined": "Combined actions", "basic": "Basic actions"}
# Key in results.json -> (title, whether it is a share in percent).
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
    """The content of a run folder; only results or metrics are required."""

    folder: Path
    results: Results
    metrics: Sequence[StepMetrics]
    diagnosis: Diagnosis
    """Of the evaluation alone for runs without metrics of training steps."""
    config: RunSettings
    record: RunRecord
    """How it began: command line and environment."""
    video: bytes
    filmstrips: Mapping[str, bytes]
    """By the scenario's name."""
    looks: Mapping[int, bytes]
    """Filmstrip of the clip of each look of the held-out judge, by step."""


def load_run(run_dir: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: when the folder is no run, or a file in it is malformed.
    """
    if not run_dir.is_dir():
        why = "it is a file" if run_dir.is_file() else "there is no such folder"
        raise UserError(f"{run_dir} is not a run folder: {why}")
    folder = RunFolder(run_dir)
    if not (folder.results.is_file() or folder.metrics.is_file()):
        hint = training_member(folder)
        raise UserError(f"{run_dir} is not a run folder: expected results.json or metrics.jsonl in it{hint}")
    results = read_results(folder.results)
    video = folder.comparison
    return Run(
        folder=run_dir,
        results=results,
        metrics=read_metrics(folder.metrics),
        diagnosis=_diagnosis(run_dir, results),
        config=read_settings(folder.config),
        record=read_run_record(folder.record),
        video=video.read_bytes() if video.is_file() else b"",
        filmstrips={
            p.stem.replace("_", " ").replace("heldout", "held out,"): p.read_bytes()
            for p in sorted(folder.filmstrips.glob("*.png"))
        },
        looks={step: _strip(clip) for step, clip in folder.clips().items()},
    )


def flatten(row: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as ``outer/inner``."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def verdict(run: Run) -> str:
    """The doctor's state, or ``unfinished`` before the last step, or the evaluation that the run began with."""
    return run.diagnosis.state if run.diagnosis.evaluation or _complete(run) else "unfinished"


def _complete(run: Run) -> bool:
    """Whether a run without a comparison of before and after has done all of its steps and plans none."""
    planned = run.config.steps
    done = planned is not None and run.diagnosis.steps >= planned
    return done and not RunFolder(run.folder).evaluations()


def answer(run: Run) -> str:
    """The doctor's verdict in one or two sentences."""
    sentences = [] if run.diagnosis.evaluation else ["This run has no before-and-after comparison yet."]
    sentences = ["All steps are done; nothing compared before and after."] if _complete(run) else sentences
    sentences += [run.diagnosis.answer] if run.diagnosis.evaluation or run.diagnosis.steps else []
    return " ".join(sentences)


def walked_text(results: Results, way: str) -> str:
    """A way of walking with its sizes, such as ``play (chunks of 1 latent, 4 denoising steps)``."""
    walking = results.walking.get(way)
    return f"{way} ({walking.describe()})" if walking else way


def headline(found: Evaluation, kind: str, way: str = ROLLOUT) -> str:
    """One sentence, such as ``Combined actions followed: 24.1% → 41.3% (engine 88.0%); 27.0% of the gap …``.

    Counts of latents stand beside the shares if they are known, and the way of walking if it is not ``rollout``.
    """
    base, trained, engine = (_followed(found, side, kind) for side in ("base", "trained", "engine"))
    if not found.has(kind) or base == trained == UNMEASURED:
        return ""
    walked = "" if way == ROLLOUT else f" in the way {way}"
    text = f"{KINDS[kind]} followed{walked}: {base} → {trained}"
    if engine != UNMEASURED:
        text += f" (engine {engine})"
    gap = gap_share(found, kind)
    if gap.known:
        text += f"; {percent(gap.mean)} of the gap closed"
    elif gap.n is not None:
        text += "; the gap is not resolved"
    if gap.bounded:
        text += f" (95% interval {percent(gap.low)} to {percent(gap.high)})"
    return text + "."


def _followed(found: Evaluation, side: str, kind: str) -> str:
    share, count = found.score(side, kind, FOLLOWED), found.count(side, kind)
    return percent(share.mean) + (f", {count}" if count and share.known else "")


def _strip(clip: Path) -> bytes:
    """A filmstrip of a clip as PNG."""
    frames = video.read_video(clip)
    return video.png(video.filmstrip(frames, max(1, len(frames) // LOOK_FRAMES)))


def _diagnosis(run_dir: Path, results: Results) -> Diagnosis:
    """The doctor's diagnosis; of the evaluation alone when the metrics are not those of training steps."""
    try:
        return diagnose(read_record(run_dir))
    except UserError:
        return diagnose(Record((), evaluation=evaluated(results)))
