"""What a scene is, and which scenes belong to which split.

A scene follows from its split's name and its number alone, so the splits are written down here as data and need
no files. Every number makes a scene; no two splits share random numbers.

=============  ==============================================================================================
split          scenes
=============  ==============================================================================================
train          what the world model is trained on: trained colours, tables and sets of things
heldout        drawn as the training scenes, other seeds: never trained on
critic, judge  drawn as the training scenes, other seeds: for critics, and for a judge that shares none of them
unseen_looks   colours of things, tints, patterns and walls that no training scene has; trained sets of things
unseen_sets    sets of things that no training scene has; trained colours and tables
=============  ==============================================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from worldcompass.errors import UserError
from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import LIMIT_HIGH, LIMIT_LOW, THINGS

SETS: tuple[frozenset[str], ...] = (
    frozenset({"cup", "ball"}),
    frozenset({"cup", "block"}),
    frozenset({"cup", "ball", "bottle"}),
    frozenset({"cup", "block", "bottle"}),
    frozenset({"cup", "ball", "block", "bottle"}),
)
UNSEEN_SETS: tuple[frozenset[str], ...] = (
    frozenset({"cup", "bottle"}),
    frozenset({"cup", "ball", "block"}),
    frozenset({"ball", "block", "bottle"}),
)
APART_X, APART_Y = 0.25, 0.155  # metres between things on one axis or the other: room for a finger
HANDLE_SIDES_DEG = ((-55.0, 25.0), (155.0, 235.0))  # the cup's handle starts to the right or to the left
CLEAR_HEIGHT = 0.172  # of the finger tips: above everything that stands
OPEN_SHARE = 0.8  # of scenes that start with the gripper wide open
NARROW_OPENING = 0.06


@dataclass(frozen=True)
class Look:
    """The choices that a split draws from."""

    hues: Mapping[str, str]
    tints: Sequence[str]
    patterns: Sequence[str]
    walls: Sequence[str]


TRAINED = Look(looks.HUES, looks.TINTS, tuple(looks.PATTERNS), looks.WALLS)
UNSEEN = Look(looks.UNSEEN_HUES, looks.UNSEEN_TINTS, tuple(looks.UNSEEN_PATTERNS), looks.UNSEEN_WALLS)
SPLITS: dict[str, tuple[Look, tuple[frozenset[str], ...]]] = {
    "train": (TRAINED, SETS),
    "heldout": (TRAINED, SETS),
    "critic": (TRAINED, SETS),
    "judge": (TRAINED, SETS),
    "unseen_looks": (UNSEEN, SETS),
    "unseen_sets": (TRAINED, UNSEEN_SETS),
}


@dataclass(frozen=True)
class Placed:
    """A thing on the table."""

    kind: str
    """One of ``facts.THINGS``."""
    colour: str
    """A name of ``looks.HUES`` or ``looks.UNSEEN_HUES``."""
    x: float
    y: float
    yaw_deg: float
    """Counter-clockwise from above; a cup's handle points along x at 0."""


@dataclass(frozen=True)
class Scene:
    """Everything that a start is made of; lengths in metres."""

    name: str
    """``SPLIT/NUMBER``."""
    things: tuple[Placed, ...]
    pattern: str
    tint: str
    wall: str
    rim: str
    """Colours as six hexadecimal digits."""
    gripper: tuple[float, float, float, float]
    """x, y, z of the point between the finger tips, and the opening."""
    white_band: bool = True
    """Whether the cup's band is white, or of the cup's own colour."""

    def placed(self, kind: str) -> Placed | None:
        """The thing of a kind, where the scene has it."""
        return next((thing for thing in self.things if thing.kind == kind), None)


def seed_of(*parts: object) -> int:
    """A seed of 64 bits from names and numbers, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, ("hands", *parts))).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def scene(split: str, number: int) -> Scene:
    """Scene ``number`` of a split.

    Raises:
        UserError: for an unknown split or a negative number.
    """
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r} of Hands scenes: choose one of {', '.join(SPLITS)}")
    if number < 0:
        raise UserError(f"scenes are numbered from 0, got {number}")
    rng = np.random.default_rng(seed_of("scene", split, number))
    look, sets = SPLITS[split]
    chosen = sets[rng.integers(len(sets))]
    kinds = [kind for kind in THINGS if kind in chosen]
    places = _places(rng, len(kinds))
    colours = _pick_some(rng, tuple(look.hues), len(kinds))
    things = tuple(
        Placed(kind, colour, *place, _yaw(rng, kind))
        for kind, colour, place in zip(kinds, colours, places, strict=True)
    )
    return Scene(
        name=f"{split}/{number}",
        things=things,
        pattern=_pick(rng, look.patterns),
        tint=_pick(rng, look.tints),
        wall=_pick(rng, look.walls),
        rim=_pick(rng, looks.RIMS),
        gripper=_gripper(rng),
        white_band=bool(rng.random() < 0.7),
    )


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _pick_some(rng: np.random.Generator, choices: Sequence[str], count: int) -> list[str]:
    return [choices[int(i)] for i in rng.permutation(len(choices))[:count]]


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Places within the gripper's reach, a finger's room apart; drawn anew until all fit."""
    while True:
        places: list[tuple[float, float]] = []
        for _ in range(40 * count):
            x, y = (float(rng.uniform(LIMIT_LOW[axis], LIMIT_HIGH[axis])) for axis in (0, 1))
            if all(abs(x - p) > APART_X or abs(y - q) > APART_Y for p, q in places):
                places.append((x, y))
            if len(places) == count:
                return places


def _yaw(rng: np.random.Generator, kind: str) -> float:
    if kind != "cup":
        return float(rng.uniform(-180, 180))
    low, high = HANDLE_SIDES_DEG[int(rng.integers(2))]
    return float(rng.uniform(low, high))


def _gripper(rng: np.random.Generator) -> tuple[float, float, float, float]:
    x, y = (float(rng.uniform(LIMIT_LOW[axis], LIMIT_HIGH[axis])) for axis in (0, 1))
    z = float(rng.uniform(CLEAR_HEIGHT, LIMIT_HIGH[2]))
    widest = float(LIMIT_HIGH[3])
    opening = widest if rng.random() < OPEN_SHARE else float(rng.uniform(NARROW_OPENING, widest))
    return x, y, z, opening


def yaw_quaternion(yaw_deg: float) -> tuple[float, float, float, float]:
    """The turn about z as (w, x, y, z)."""
    half = math.radians(yaw_deg) / 2
    return math.cos(half), 0.0, 0.0, math.sin(half)


def facing_of(quaternion_4: np.ndarray) -> float:
    """The turn about z of a pose's (w, x, y, z), degrees."""
    w, x, y, z = (float(value) for value in quaternion_4)
    return math.degrees(math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
