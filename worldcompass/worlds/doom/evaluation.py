"""Evaluation on the embedded world by the held-out judge: weights, the base and the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldcompass.media.progress import progress
from worldcompass.runs.results import Results
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.worlds.doom.critics.motion import LabelReader
from worldcompass.worlds.doom.critics.weights import load_critics, load_judge
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.world import SPEC, WEIGHTS, load_doom_world
from worldcompass.worlds.small.post_training import evaluation
from worldcompass.worlds.small.post_training.evaluation import Comparison, Exam

HORIZONS = {125: 8, 253: 16, 381: 24}
"""Frames of a rollout: its chunks of 4 latents."""
LATENTS_PER_CHUNK = SPEC.ways[ROLLOUT].chunk_length


def exam() -> Exam:
    """The held-out judge, and the reward's reader."""
    return Exam(load_judge(), LabelReader(load_critics().motion))


def compare(checkpoints: Sequence[Path], out: Path, frames: int, seed: int, device: str) -> Results:
    """Score weights on the fixed scenarios; see ``worlds.small.post_training.evaluation.compare``."""
    of = Comparison(WEIGHTS, load_doom_world, _scenarios, exam, HORIZONS)
    return evaluation.compare(of, checkpoints, out, frames, seed, device)


def _scenarios(latents: int) -> list[Scenario]:
    plans = evaluation_plans()
    with progress("replaying the scenarios in the engine", len(plans)) as advance:
        return replay_all(plans, latents, advance)
