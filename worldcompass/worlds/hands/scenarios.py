"""Scenarios of the Hands world: a start and commands that the engine carries out exactly.

``basic`` scenarios command one axis at a time, ``combined`` ones two or more at once. A scenario is stored as its
scene and its commands; the engine replays it to give the start image and its own continuation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from worldcompass.errors import UserError
from worldcompass.evaluate import KINDS
from worldcompass.runs.atomic import write_text
from worldcompass.runs.reading import read_json, reason
from worldcompass.worlds.hands.engine import Engine, Steps
from worldcompass.worlds.hands.facts import (
    CONTROLS,
    LIMIT_HIGH,
    LIMIT_LOW,
    NOMINAL,
    NUM_ACTIONS,
    THINGS,
    kind_of_action,
    label_of,
    labels_of,
)
from worldcompass.worlds.hands.scripts import Look, Pick, play
from worldcompass.worlds.hands.splits import scene, seed_of

ERRAND = "instruction"  # the kind of scenarios that carry out a task
HOLD_MIN, HOLD_MAX = 1, 6  # latents that a motion lasts; the table is about eight wide
HELD_SHARE = 0.25  # of scenarios that begin with something in hand
TOWARDS_SHARE = 0.5  # of motions that are the best of several at bringing the gripper to a thing
TOWARDS_AMONG = 6
PICK_MOST = 30  # latents that the pick before a scenario may take
MAX_TRIES = 60  # motions tried before a scenario is given up
EDGE = 0.002  # metres by which a motion may fall short at a limit
AXES_WEIGHTS = {"basic": {1: 1.0}, "combined": {2: 0.6, 3: 0.3, 4: 0.1}}
"""How often a motion of each kind uses so many axes; among those every action is as likely."""


LISTS = ("before", "labels", "done")  # fields of a plan that JSON knows as lists


@dataclass(frozen=True)
class Plan:
    """Where a scenario starts and what it commands: enough for the engine to replay it."""

    id: str
    """Unique and stable: ``SPLIT/KIND/COUNT``."""
    kind: str
    split: str
    number: int
    """The scene's number in its split."""
    before: tuple[int, ...]
    """Actions carried out before the start image, such as those of a grasp."""
    labels: tuple[int, ...]
    """Composite actions; the first is 0, the start image's."""
    instruction: str = ""
    """The task in words that the commands carry out, if there is one."""
    done: tuple[int, ...] = ()
    """What the gripper did, where it differs from the commands: fingers stop at what they hold."""


def replay(engine: Engine, plan: Plan, latents: int) -> Steps:
    """The start frame and the engine's own continuation: ``latents - 1`` commands, 4 ``latents`` - 3 frames."""
    steps = engine.reset(scene(plan.split, plan.number))
    for action in plan.before:
        steps = engine.act(action, draw=False)
    start = engine.restore(engine.save()) if plan.before else steps
    return Steps.join([start, *(engine.act(action) for action in plan.labels[1:latents])])


def replay_all(
    engine: Engine, plans: Sequence[Plan], latents: int, on_scenario: Callable[[], None] = lambda: None
) -> list[Steps]:
    """Replay plans in their order.

    Raises:
        UserError: when the installed engine does not carry out a plan as it did when the plan was made.
    """
    replayed = []
    for plan in plans:
        steps = replay(engine, plan, latents)
        if tuple(labels_of(steps.grip_F4)) != (plan.done or plan.labels)[:latents]:
            raise UserError(
                f"MuJoCo moved otherwise than planned in scenario {plan.id}: install the pinned version of mujoco"
            )
        replayed.append(steps)
        on_scenario()
    return replayed


def draw(
    engine: Engine, rng: np.random.Generator, name: str, kind: str, split: str, number: int, latents: int
) -> Plan | None:
    """Try one scenario at a scene; None when no motion could be carried out for long enough.

    Raises:
        UserError: for an unknown kind.
    """
    if kind not in KINDS:
        raise UserError(f"there is no kind {kind!r} of Hands scenarios: choose one of {', '.join(KINDS)}")
    look = Look.at_end(engine.reset(scene(split, number)))
    before: list[int] = []
    if rng.random() < HELD_SHARE:
        here = [THINGS[i] for i in np.flatnonzero(engine.present)]
        pick = Pick(here[int(rng.integers(len(here)))], int(rng.integers(1, 4)))
        before, seen = play(engine, look, pick, PICK_MOST, draw=False)
        look = Look.at_end(seen[-1])
    labels, tries = [0], 0
    while len(labels) < latents:
        action, hold = _segment(rng, kind, look)
        done, look = _carry_out(engine, look, action, min(hold, latents - len(labels)))
        labels += [action] * done
        tries = 0 if done else tries + 1
        if tries > MAX_TRIES:
            return None
    return Plan(name, kind, split, number, tuple(before), tuple(labels))


def _segment(rng: np.random.Generator, kind: str, look: Look) -> tuple[int, int]:
    """A motion of the kind that has room, and for how many latents to hold it; 0 latents when there is no room."""
    candidates = [draw_action(rng, kind) for _ in range(TOWARDS_AMONG if rng.random() < TOWARDS_SHARE else 1)]
    longest = int(rng.integers(HOLD_MIN, HOLD_MAX + 1))
    motions = [(action, min(longest, room(look.grip_4, action))) for action in candidates]
    return min(motions, key=lambda motion: _distance(look, *motion))


def draw_action(rng: np.random.Generator, kind: str) -> int:
    """An action of a kind, by ``AXES_WEIGHTS``."""
    weights = AXES_WEIGHTS[kind]
    axes = int(rng.choice(list(weights), p=list(weights.values())))
    return int(rng.choice(_ACTIONS_BY_AXES[axes]))


_ACTIONS_BY_AXES = {n: np.flatnonzero(np.abs(CONTROLS).sum(1) == n) for n in (1, 2, 3, 4)}


def room(grip_4: np.ndarray, action: int) -> int:
    """For how many latents an action can be carried out before the gripper reaches a limit."""
    signs = CONTROLS[action].astype(float)
    ahead = np.where(signs > 0, LIMIT_HIGH - grip_4, grip_4 - LIMIT_LOW)[signs != 0]
    return int(np.floor((ahead + EDGE) / NOMINAL[signs != 0]).min()) if signs.any() else HOLD_MAX


def _distance(look: Look, action: int, hold: int) -> float:
    """From the gripper to the nearest thing after a motion, metres; infinite for no motion."""
    if hold == 0:
        return float("inf")
    end = look.grip_4[:3] + (CONTROLS[action] * NOMINAL)[:3] * hold
    return float(np.linalg.norm(look.things_T7[:, :3] - end, axis=1).min())


def _carry_out(engine: Engine, look: Look, action: int, hold: int) -> tuple[int, Look]:
    """How many latents of a motion the engine carries out; it stands at their end then."""
    for done in range(hold):
        moment = engine.save()
        after = Look.at_end(engine.act(action, draw=False))
        if label_of(after.grip_4 - look.grip_4) != action:
            engine.restore(moment)
            return done, look
        look = after
    return hold, look


def draw_all(
    engine: Engine,
    split: str,
    per_kind: int,
    latents: int,
    seed: int,
    on_scenario: Callable[[], None] = lambda: None,
) -> list[Plan]:
    """Scenarios of both kinds, each at a scene of its own."""
    plans: list[Plan] = []
    number = 0
    for kind in KINDS:
        rng = np.random.default_rng(seed_of("scenarios", split, kind, seed))
        count = 0
        while count < per_kind:
            plan = draw(engine, rng, f"{split}/{kind}/{count}", kind, split, number, latents)
            number += 1
            if plan is not None:
                plans.append(plan)
                count += 1
                on_scenario()
    return plans


def write_plans(path: Path, plans: Sequence[Plan]) -> None:
    """Store plans, one a line."""
    write_text(path, "[\n" + ",\n".join(json.dumps(asdict(plan)) for plan in plans) + "\n]\n")


def read_plans(path: Path) -> list[Plan]:
    """Plans that ``write_plans`` stored.

    Raises:
        UserError: when the file is none of plans, or commands an action that there is not.
    """
    try:
        rows = read_json(path)
        plans = [Plan(**{**row, **{name: tuple(row.get(name, ())) for name in LISTS}}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as why:
        raise UserError(f"{path} holds no Hands scenarios ({reason(why)}): expected a list of plans") from why
    for plan in plans:
        if not all(isinstance(a, int) and 0 <= a < NUM_ACTIONS for a in (*plan.before, *plan.labels)):
            raise UserError(f"scenario {plan.id} of {path} commands an action outside 0 to {NUM_ACTIONS - 1}")
        mixed = plan.kind in KINDS and any(kind_of_action(a) != plan.kind for a in plan.labels[1:])
        if mixed or plan.kind not in (*KINDS, ERRAND):
            raise UserError(f"scenario {plan.id} of {path} commands actions that are not {plan.kind}")
    return plans
