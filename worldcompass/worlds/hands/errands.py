"""Scenarios that carry an instruction: a script does in the engine what the words say, and succeeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldcompass.worlds.hands.engine import Engine, Steps
from worldcompass.worlds.hands.facts import THINGS, labels_of
from worldcompass.worlds.hands.scenarios import ERRAND, Plan
from worldcompass.worlds.hands.scripts import WAYS, Behaviour, Look, Pick, Push, play, pushes
from worldcompass.worlds.hands.splits import Scene, scene, seed_of
from worldcompass.worlds.hands.tasks import PICK, PUSH, Instruction

VERBS = (PICK, PUSH)
LIFT = 3  # latents that a picked thing rises
PUSH_STEPS = (3, 6)  # latents of a push, the second excluded
RAISED, PUSHED = 0.08, 0.05  # metres by which the thing must have risen, or moved along the way


def draw_errands(
    engine: Engine, split: str, verbs: Sequence[str], count: int, latents: int, seed: int, first: int,
    on_scenario: Callable[[], None] = lambda: None,
) -> list[Plan]:  # fmt: skip
    """``count`` tasks of each verb that a script carries out within ``latents``, each at a scene of its own.

    Args:
        engine: without drawing is enough.
        split: of the scenes.
        verbs: of the tasks.
        count: of each verb.
        latents: of a scenario; when the script is done, the gripper rests.
        seed: of things and ways.
        first: number of the first scene that is tried.
        on_scenario: called after each.
    """
    plans: list[Plan] = []
    number = first
    for verb in verbs:
        rng = np.random.default_rng(seed_of("errands", split, verb, seed))
        found = 0
        while found < count:
            plan = _draw(engine, rng, f"{split}/{verb}/{found}", verb, split, number, latents)
            number += 1
            if plan is not None:
                plans.append(plan)
                found += 1
                on_scenario()
    return plans


def _draw(
    engine: Engine, rng: np.random.Generator, name: str, verb: str, split: str, number: int, latents: int
) -> Plan | None:
    """Try one task; None when the script fails or takes too long."""
    steps = engine.reset(scene(split, number))
    look = Look.at_end(steps)
    chosen = _task(rng, verb, look, engine.scene)
    if chosen is None:
        return None
    task, behaviour = chosen
    actions, seen = play(engine, look, behaviour, latents, draw=False)
    if len(actions) >= latents:
        return None
    rest = latents - 1 - len(actions)
    whole = Steps.join([steps, *seen, *(engine.act(0, draw=False) for _ in range(rest))])
    if not succeeded(task, whole):
        return None
    labels, did = (0, *actions, *[0] * rest), tuple(int(label) for label in labels_of(whole.grip_F4))
    return Plan(name, ERRAND, split, number, (), labels, str(task), () if did == labels else did)


def _task(rng: np.random.Generator, verb: str, look: Look, of: Scene) -> tuple[Instruction, Behaviour] | None:
    """A task at a scene with the script for it; None when the drawn thing cannot be pushed any way."""
    thing = of.things[int(rng.integers(len(of.things)))]
    if verb == PICK:
        return Instruction(verb, thing.kind, thing.colour), Pick(thing.kind, LIFT)
    ways = pushes(look.things_T7, thing.kind)
    if not ways:
        return None
    way = ways[int(rng.integers(len(ways)))]
    return Instruction(verb, thing.kind, thing.colour, way), Push(
        thing.kind, way, int(rng.integers(*PUSH_STEPS))
    )


def succeeded(task: Instruction, steps: Steps) -> bool:
    """Whether the last frame shows the task done: the thing held high, or moved along the way."""
    index = THINGS.index(task.kind)
    places = steps.things_FT7[:, index, :3]
    moved = places[-1] - places[0]
    if task.verb == PICK:
        return bool(steps.held_FT[-1, index]) and float(moved[2]) > RAISED
    return float(moved[:2] @ np.array(WAYS[task.way])) > PUSHED
