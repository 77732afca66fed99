"""Which levels there are: a level is a function of its name, such as ``house_003``.

| family | levels | styles | who sees them |
|---|---|---|---|
| ``house`` | 320 | training | the world trains on them; held-out episodes have separate seeds |
| ``critic`` | 16 | training | critics alone |
| ``judge`` | 16 | training | the judge alone |
| ``unseen`` | 16 | training | nobody: new rooms in known styles |
| ``strange`` | 8 | others | nobody: new rooms in unknown styles |

A family goes on beyond its levels: ``house_700`` is a level too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

from worldcompass.errors import UserError
from worldcompass.worlds.doom.levels.plan import Plan, make_plan
from worldcompass.worlds.doom.levels.sprites import KINDS
from worldcompass.worlds.doom.levels.styles import STYLES, TRAINING_STYLES, UNSEEN_STYLES
from worldcompass.worlds.doom.levels.wad import make_wad

FAMILIES = {"house": 320, "critic": 16, "judge": 16, "unseen": 16, "strange": 8}
"""Levels of each family that the splits of a data set use."""
MOST = 1000  # levels of a family
EDITION = 1  # raised when levels change, so that recordings of others are not continued


@dataclass(frozen=True)
class Level:
    """A level made from a seed."""

    family: str
    number: int
    style: str
    seed: int

    @property
    def name(self) -> str:
        """Such as ``house_003``."""
        return f"{self.family}_{self.number:03d}"

    @property
    def plan(self) -> Plan:
        """Its floor plan."""
        return _plan(self.seed)

    def places(self) -> list[tuple[float, float]]:
        """Free places (x, y) all over the level, map units."""
        return _places(self.seed)

    def obstacles(self) -> list[tuple[int, int, int, int]]:
        """Boxes (x0, y0, x1, y1) of the things in it, map units."""
        boxes = []
        for thing in self.plan.things:
            reach = KINDS[thing.kind].radius
            boxes.append((thing.x - reach, thing.y - reach, thing.x + reach, thing.y + reach))
        return boxes

    def wad(self) -> bytes:
        """Its WAD file; the map in it is ``MAP01``."""
        return make_wad(self.plan, STYLES[self.style])


@cache
def _plan(seed: int) -> Plan:
    return make_plan(seed)


@cache
def _places(seed: int) -> list[tuple[float, float]]:
    return _plan(seed).places()


def level(family: str, number: int) -> Level:
    """A level of a family; neighbours in number have different styles."""
    styles = list(UNSEEN_STYLES if family == "strange" else TRAINING_STYLES)
    digest = hashlib.sha256(f"{family}/{number}".encode()).digest()
    return Level(family, number, styles[number % len(styles)], int.from_bytes(digest[:6], "little"))


def find_level(name: str) -> Level | None:
    """The level of a name; None when the name is of no family.

    Raises:
        UserError: for a number that is none.
    """
    family, _, number = name.rpartition("_")
    if family not in FAMILIES:
        return None
    if not (number.isdecimal() and number.isascii() and len(number) == 3):
        raise UserError(f"unknown level {name!r}: expected {family}_000 to {family}_{MOST - 1}")
    return level(family, int(number))


def levels(family: str, count: int | None = None) -> tuple[Level, ...]:
    """The first levels of a family.

    Args:
        family: one of ``FAMILIES``.
        count: how many; as many as the splits use by default.
    """
    return tuple(level(family, number) for number in range(FAMILIES[family] if count is None else count))
