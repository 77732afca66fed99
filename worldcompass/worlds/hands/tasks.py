"""Instructions of the Hands world, and when they are done: by the engine's truth, and by pixels.

``pick up the navy cup`` is done once the cup hangs between the fingers ``LIFTED`` above the table; ``push the pink
ball to the left`` once the ball has come ``PUSHED`` to the left along the table. Both are asked at the last frame
of each latent and stay done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldcompass.errors import UserError
from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import (
    LIMIT_HIGH,
    LIMIT_LOW,
    NOMINAL,
    REST_HEIGHT,
    THINGS,
)
from worldcompass.worlds.hands.scripts import WAYS, Look, pushes
from worldcompass.worlds.hands.sight import on_table
from worldcompass.worlds.hands.silhouettes import start_poses
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.view import project

PICK, PUSH = "pick up", "push"
WAY_WORDS = {"left": "to the left", "right": "to the right", "away": "away", "near": "nearer"}
LIFTED = 0.06  # metres of a thing's base above the table
PUSHED = 0.06  # metres along the way
STANDING = 0.03  # metres: a pushed thing's base is not higher above where it rested
PUSH_SHOWN = 2  # latents in a row that must show a push: what the gripper half hides seems to move
GRASPING = 0.18  # metres: the commanded opening at which fingers can hold something, at most: a cup's handle
HANGS = 3.0  # pixels between what hangs from the fingers and the middle between them, across
FOLLOWS = 2.0  # pixels by which what is lifted may fail to follow the fingers


@dataclass(frozen=True)
class Instruction:
    """What shall happen to which thing."""

    verb: str
    """``PICK`` or ``PUSH``."""
    kind: str
    colour: str
    """Of the thing; empty for the scene's one thing of the kind, see ``of_scene``."""
    way: str = ""
    """Of a push, a name of ``scripts.WAYS``."""

    def __str__(self) -> str:
        """Such as ``push the pink ball to the left``."""
        what = f"{self.colour} {self.kind}".strip()
        return f"{self.verb} the {what} {WAY_WORDS.get(self.way, '')}".strip()


_WAYS_TO_ACT = ((PICK, ""), *((PUSH, way) for way in WAYS))
PICK_CUP = Instruction(PICK, "cup", "")
PUSH_BALL_LEFT = Instruction(PUSH, "ball", "", "left")


def instructions(scene: Scene) -> tuple[Instruction, ...]:
    """All that can be asked for in a scene: to lift each thing, to push it where ``scripts.pushes`` has room."""
    poses, found = start_poses(scene), []
    for thing in scene.things:
        found.append(Instruction(PICK, thing.kind, thing.colour))
        ways = pushes(poses, thing.kind)
        found += [Instruction(PUSH, thing.kind, thing.colour, way) for way in ways]
    return tuple(found)


def parse(text: str) -> Instruction:
    """The instruction that a text gives; its colour may be left out: ``pick up the cup``.

    Raises:
        UserError: for any other text, with those that are known.
    """
    words = " ".join(text.lower().split())
    for colour in ("", *looks.HUES, *looks.UNSEEN_HUES):
        for one in (Instruction(verb, kind, colour, way) for kind in THINGS for verb, way in _WAYS_TO_ACT):
            if words == str(one):
                return one
    things = " | ".join(THINGS)
    raise UserError(
        f"there is no instruction {text!r}: expected 'pick up the [COLOUR] {things}' or 'push the [COLOUR] {things}"
        f" {' | '.join(WAY_WORDS.values())}', such as '{PICK_CUP}' or '{PUSH_BALL_LEFT}'"
    )


def of_scene(scene: Scene, wanted: Instruction) -> Instruction | None:
    """The scene's own instruction that is meant, with its colour; None without such a thing, or room for it."""
    same = (one for one in instructions(scene) if wanted in (one, replace(one, colour="")))
    return next(same, None)


def instruction_in(scene: Scene, text: str) -> Instruction:
    """The instruction of a scene that a text gives.

    Raises:
        UserError: for a text that is none, or that asks for what the scene does not have; with those that it knows.
    """
    found = of_scene(scene, parse(text))
    if found is None:
        listed = ", ".join(map(str, instructions(scene)))
        raise UserError(f"the scene {scene.name} cannot {text}: choose one of {listed}")
    return found


# --------------------------------------------------------------------------- truth


def done_in_truth(wanted: Instruction, scene: Scene, look: Look) -> bool:
    """Whether the engine's truth at one frame shows it done."""
    index = THINGS.index(wanted.kind)
    x, y, z = (float(value) for value in look.things_T7[index, :3])
    raised = z - REST_HEIGHT[index]
    if wanted.verb == PICK:
        return bool(look.held_T[index]) and raised >= LIFTED
    start = scene.placed(wanted.kind)
    assert start is not None, f"{scene.name} has no {wanted.kind}"
    return (
        not look.held_T[index] and raised < STANDING and _along(wanted, (x, y), (start.x, start.y)) >= PUSHED
    )


def _along(
    wanted: Instruction, place: Sequence[float] | np.ndarray, start: Sequence[float] | np.ndarray
) -> float:
    """Metres from the start along the way of a push."""
    return float((np.asarray(place) - np.asarray(start)) @ np.array(WAYS[wanted.way]))


# --------------------------------------------------------------------------- pixels


def reckoned(grip_4: np.ndarray, controls_4: np.ndarray) -> np.ndarray:
    """Where the gripper should be after a latent of controls, if nothing is in its way."""
    return np.clip(grip_4 + NOMINAL * controls_4, LIMIT_LOW, LIMIT_HIGH)


@dataclass(frozen=True)
class Seen:
    """What pixels and commands tell of a video so far, at the last frame of each of M latents."""

    scene: Scene
    grip_M4: np.ndarray
    """Where the gripper was commanded to be."""
    places_MT2: np.ndarray
    """Pixels (column, row) of the things, as an ``Eye`` finds them."""

    @staticmethod
    def start(scene: Scene, places_T2: np.ndarray) -> Seen:
        """The start picture alone."""
        return Seen(scene, np.array(scene.gripper, float)[None], places_T2[None])

    def after(self, controls_4: np.ndarray, places_T2: np.ndarray) -> Seen:
        """With one more latent."""
        grip = reckoned(self.grip_M4[-1], controls_4)
        return Seen(
            self.scene,
            np.concatenate([self.grip_M4, grip[None]]),
            np.concatenate([self.places_MT2, places_T2[None]]),
        )


def done_in_pixels(wanted: Instruction, seen: Seen) -> bool:
    """Whether the last latents show it done: ``Eye`` and commands know no more than a viewer does."""
    index = THINGS.index(wanted.kind)
    if wanted.verb == PICK:
        return lifted(seen, index)
    start = start_poses(seen.scene)[index, :2]
    places = [on_table(place, wanted.kind) for place in seen.places_MT2[-PUSH_SHOWN:, index]]
    shown = all(_along(wanted, place, start) >= PUSHED for place in places)
    return shown and len(places) == PUSH_SHOWN and not lifted(seen, index)


def lifted(seen: Seen, index: int) -> bool:
    """Whether a thing came along when the closed fingers rose by ``LIFTED``.

    One picture cannot tell a thing that hangs from one that stands farther away: what it does when the fingers rise
    tells.
    """
    grip_M4, places_M2 = seen.grip_M4, seen.places_MT2[:, index]
    low = np.flatnonzero(grip_M4[:, 2] <= grip_M4[-1, 2] - LIFTED)
    if not len(low) or (grip_M4[low[-1] :, 3] > GRASPING).any():
        return False
    before, now = project(grip_M4[[low[-1], -1], :3])
    moved = places_M2[-1] - places_M2[low[-1]]
    # A place that is not seen is NaN, and no comparison with it holds.
    follows = np.linalg.norm(moved - (now - before)) <= FOLLOWS
    return bool(follows and abs(places_M2[-1, 0] - now[0]) <= HANGS)
