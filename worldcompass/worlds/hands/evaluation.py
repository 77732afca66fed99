"""Evaluation of the Hands world by the held-out judges: weights, the base and the engine.

The fixed scenarios and the engine's own continuation are in the package, so nothing here needs the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from worldcompass.runs.results import Results
from worldcompass.types import Scenario
from worldcompass.ways import ROLLOUT
from worldcompass.worlds.hands.critics.following import GripperReader, nearness_by
from worldcompass.worlds.hands.critics.weights import load_judge, shared_reader
from worldcompass.worlds.hands.footage import shipped_scenarios
from worldcompass.worlds.hands.task_judge import permanence
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, load_hands_world
from worldcompass.worlds.small.post_training import evaluation
from worldcompass.worlds.small.post_training.evaluation import Comparison, Exam

HORIZONS = {125: 8}
"""Frames of a rollout: its chunks of 4 latents."""
LATENTS_PER_CHUNK = SPEC.ways[ROLLOUT].chunk_length


def exam() -> Exam:
    """The held-out judge, the reward's reader, permanence by the task judge, nearness of motions by the judge."""
    judge = load_judge()
    measures = {"permanence": permanence, "nearness": partial(nearness_by, judge.grip)}
    return Exam(judge, GripperReader(shared_reader()), measures)


def fixed_scenarios(latents: int, unseen: bool = True) -> list[Scenario]:
    """The scenarios of the evaluation with the engine's continuation.

    Raises:
        UserError: for more latents than the package holds.
    """
    found = shipped_scenarios("evaluation", latents)
    return [scenario for scenario in found if unseen or not scenario.id.startswith("unseen")]


def compare(checkpoints: Sequence[Path], out: Path, frames: int, seed: int, device: str) -> Results:
    """Score weights on the fixed scenarios; see ``worlds.small.post_training.evaluation.compare``."""
    of = Comparison(WEIGHTS, load_hands_world, fixed_scenarios, exam, HORIZONS)
    return evaluation.compare(of, checkpoints, out, frames, seed, device)
