"""What the Doom world gives to a blind study: the evaluation's scenarios, replayed in the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldcompass.judging.votes.subjects import Subjects
from worldcompass.media.progress import progress
from worldcompass.types import Scenario
from worldcompass.worlds.doom.engine.scenarios import evaluation_plans, replay_all
from worldcompass.worlds.doom.evaluation import HORIZONS, LATENTS_PER_CHUNK
from worldcompass.worlds.doom.world import WEIGHTS, load_doom_world
from worldcompass.worlds.small.post_training.subjects import Study, subjects_of


def doom_subjects(run: Path, rival: Path | None, frames: int, device: str) -> Subjects:
    """See ``worlds.small.post_training.subjects.subjects_of``; ``frames`` is a key of ``HORIZONS``."""
    plans = {plan.id: plan for plan in evaluation_plans()}
    replayed: dict[str, Scenario] = {}

    def prepare(ids: Sequence[str]) -> Sequence[Scenario]:
        missing = [plans[i] for i in ids if i not in replayed]
        if missing:
            with progress("replaying the scenarios in the engine", len(missing)) as advance:
                found = replay_all(missing, LATENTS_PER_CHUNK * HORIZONS[frames], advance)
            replayed.update({scenario.id: scenario for scenario in found})
        return [replayed[i] for i in ids]

    study = Study(WEIGHTS, load_doom_world, tuple(plans), prepare, frames)
    return subjects_of(study, run, rival, device)
