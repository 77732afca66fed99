"""Long videos of the Hands world: scenarios of any length, and permanence of the things of their scenes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from worldcompass.evaluate import KINDS
from worldcompass.types import Scenario
from worldcompass.worlds.hands import evaluation
from worldcompass.worlds.hands.engine import Engine
from worldcompass.worlds.hands.footage import scenario_of
from worldcompass.worlds.hands.scenarios import Plan, draw, replay
from worldcompass.worlds.hands.splits import scene, seed_of
from worldcompass.worlds.hands.task_judge import kept_things
from worldcompass.worlds.hands.world import SPEC, WEIGHTS, load_hands_world
from worldcompass.worlds.small.post_training.evaluation import Exam
from worldcompass.worlds.small.post_training.horizon import BLOCK, LongWorld

FIRST = 1000  # number of the first scene of the held-out split; the fixed scenarios have lower ones


def long_world() -> LongWorld:
    """What ``look_far`` needs of this world."""
    return LongWorld(SPEC, WEIGHTS, load_hands_world, scenarios, exam)


def exam() -> Exam:
    """The exam of the evaluation, with permanence in the scenes of these scenarios."""
    known = evaluation.exam()
    return Exam(known.judge, known.reader, {"permanence": permanence})


def permanence(video_F3hw: Tensor, scenario: Scenario) -> np.ndarray:
    """See ``task_judge.permanence``; of a scenario whose id ends with the number of its scene."""
    split, _, number = scenario.id.split("/")
    return kept_things(video_F3hw, scenario, scene(split, int(number)))


def scenarios(block: int, latents: int) -> Sequence[Scenario]:
    """The scenarios of a block, ids ``heldout/KIND/NUMBER``; blocks command axes alone and together in turn.

    Raises:
        UserError: where the engine cannot draw.
    """
    found: list[Scenario] = []
    kind, number = KINDS[block % len(KINDS)], FIRST + 100 * block
    with Engine() as engine:
        while len(found) < BLOCK:
            plan = _plan(engine, kind, number, latents)
            if plan is not None:
                frames = replay(engine, plan, latents).frames_Fhw3
                assert frames is not None
                found.append(scenario_of(plan, frames))
            number += 1
    return found


def _plan(engine: Engine, kind: str, number: int, latents: int) -> Plan | None:
    rng = np.random.default_rng(seed_of("horizon", kind, number))
    return draw(engine, rng, f"heldout/{kind}/{number}", kind, "heldout", number, latents)
