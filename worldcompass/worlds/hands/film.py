"""Makes the scenarios of the package with the engine: plans, and frames of the engine's own continuation."""

from __future__ import annotations

from pathlib import Path

from worldcompass.media.progress import progress
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.errands import VERBS, draw_errands
from worldcompass.worlds.hands.footage import Set, write_set
from worldcompass.worlds.hands.scenarios import Plan, draw_all, replay_all

EVALUATION_LATENTS = 32  # 125 frames
TRAINING_LATENTS = 24
ERRAND_LATENTS = 24
PROBE_LATENTS = 16
PER_KIND = {"heldout": 12, "unseen_looks": 2, "unseen_sets": 2}  # of the evaluation, by split
TRAINING_PER_KIND, TRAINING_PER_ACT = 12, 6
ERRANDS_PER_ACT = 8
PROBES_PER_KIND = 2
SEED = 2026
ERRANDS_FROM = 10_000  # scenes of tasks are numbered from here on, so that no scenario shares one


def plans_of(engine: Engine, name: Set) -> list[Plan]:
    """The plans of a set, by an engine that need not draw."""
    if name == "evaluation":
        return [
            plan
            for split, count in PER_KIND.items()
            for plan in draw_all(engine, split, count, EVALUATION_LATENTS, SEED)
        ]
    if name == "errands":
        return draw_errands(engine, "heldout", VERBS, ERRANDS_PER_ACT, ERRAND_LATENTS, SEED, ERRANDS_FROM)
    if name == "training":
        moves = draw_all(engine, "train", TRAINING_PER_KIND, TRAINING_LATENTS, SEED)
        return moves + draw_errands(
            engine, "train", VERBS, TRAINING_PER_ACT, TRAINING_LATENTS, SEED, ERRANDS_FROM
        )
    return draw_all(engine, "critic", PROBES_PER_KIND, PROBE_LATENTS, SEED)


def film(folder: Path, name: Set) -> None:
    """Draw and store a set; its scenarios are fixed independently of any result.

    Raises:
        UserError: where the engine cannot draw.
    """
    with Engine(draw=False) as blind:
        plans = plans_of(blind, name)
    with Engine() as engine, progress(f"filming {name}", len(plans)) as advance:
        steps = replay_all(engine, plans, len(plans[0].labels), advance)
    frames = [s.frames_Fhw3 for s in steps if s.frames_Fhw3 is not None]
    write_set(folder, name, plans, frames)
