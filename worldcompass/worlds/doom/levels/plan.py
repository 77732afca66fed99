"""Floor plans from a seed: rooms, corridors, courtyards, doorways, windows, blocks, pictures and things.

All lengths are map units. Rooms are whole panels of 128 units wide and high, and walls between them are 32 units
thick. ``raster`` gives the plan in cells of 16 units, from which the level's lines are drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from worldcompass.worlds.doom.levels.sprites import KINDS
from worldcompass.worlds.doom.levels.textures import PICTURES

PANEL = 128
WALL = 32
CELL = 16
MARGIN = 64  # void around the plan
STEP = 24  # the highest step that a player walks up
HEADROOM = 56  # the lowest opening that a player passes
DOOR = 0.75  # height of a doorway over that of the lower room
JAMB = 16  # width of the frame on both sides of a doorway
SILL, WINDOW_TOP = 36, 28  # of a window: its height over the floor, and what is left of the wall above it
CLEARANCE = 48  # of the places where an episode may begin
EXTENT = 22 * PANEL  # of the whole plan, at most
TRIES, CANDIDATES = 400, 24  # of a room's place
SIDES = ("west", "north", "east", "south")
VOID, PILLAR = -1, -2  # in a raster


@dataclass(frozen=True)
class Rect:
    """A rectangle from (x0, y0) to (x1, y1); x is east and y is north."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.x1 - self.x0, self.y1 - self.y0

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def moved(self, dx: int, dy: int) -> Rect:
        """The same rectangle elsewhere."""
        return Rect(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def grown(self, by: int) -> Rect:
        """The rectangle with a margin."""
        return Rect(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def meets(self, other: Rect) -> bool:
        """Whether the two share more than an edge."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def contains(self, x: float, y: float) -> bool:
        """Whether a point lies within."""
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1


@dataclass(frozen=True)
class Room:
    """A room, a hall, a corridor or a courtyard."""

    kind: str
    rect: Rect
    floor: int
    height: int
    """From the floor to the ceiling or, in a courtyard, to the top of the walls."""
    wall: int
    """Numbers of its paints; a style takes them modulo what it has."""
    ground: int
    ceiling: int
    light: int

    @property
    def outdoor(self) -> bool:
        """Whether there is sky above."""
        return self.kind == "courtyard"


@dataclass(frozen=True)
class Opening:
    """A doorway or a window between two rooms."""

    kind: str
    rect: Rect
    rooms: tuple[int, int]
    floor: int
    top: int


@dataclass(frozen=True)
class Block:
    """Something built into a room: a dais, a crate, a bed of plants, or a pillar up to the ceiling."""

    kind: str
    rect: Rect
    room: int
    height: int
    """Over the floor; 0 for a pillar."""
    look: int


@dataclass(frozen=True)
class Picture:
    """A framed picture on one panel of a wall."""

    room: int
    side: str
    panel: int
    """Which panel of the wall, from its left end seen from inside."""
    number: int


@dataclass(frozen=True)
class Thing:
    """Something that stands about."""

    kind: str
    room: int
    x: int
    y: int


@dataclass(frozen=True)
class Area:
    """A part of the plan with one floor and one ceiling."""

    kind: str
    """``room``, ``door``, ``window`` or the kind of a block."""
    room: int
    floor: int
    ceiling: int
    rect: Rect
    look: int = 0


@dataclass(frozen=True)
class Plan:
    """A floor plan."""

    rooms: tuple[Room, ...]
    openings: tuple[Opening, ...]
    blocks: tuple[Block, ...]
    pictures: tuple[Picture, ...]
    things: tuple[Thing, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height with the margin; the plan begins at (0, 0)."""
        return (
            MARGIN + max(room.rect.x1 for room in self.rooms),
            MARGIN + max(room.rect.y1 for room in self.rooms),
        )

    @cached_property
    def areas(self) -> tuple[Area, ...]:
        """Every part with a floor: rooms first, then openings, then blocks other than pillars."""
        rooms = [Area("room", n, r.floor, r.floor + r.height, r.rect) for n, r in enumerate(self.rooms)]
        openings = [Area(o.kind, o.rooms[0], o.floor, o.top, o.rect) for o in self.openings]
        blocks = [
            Area(b.kind, b.room, rooms[b.room].floor + b.height, rooms[b.room].ceiling, b.rect, b.look)
            for b in self.blocks
            if b.kind != "pillar"
        ]
        return tuple(rooms + openings + blocks)

    @cached_property
    def raster(self) -> np.ndarray:
        """Index of the area in each cell of 16 units, or VOID or PILLAR; int (rows from south, columns)."""
        wide, high = self.size
        grid = np.full((high // CELL, wide // CELL), VOID)
        for number, area in enumerate(self.areas):
            grid[_cells(area.rect)] = number
        for block in self.blocks:
            if block.kind == "pillar":
                grid[_cells(block.rect)] = PILLAR
        return grid

    def places(self) -> list[tuple[float, float]]:
        """Free places (x, y), 32 units apart, with room around them."""
        walkable = [a.kind in ("room", "dais") for a in self.areas] + [
            False,
            False,
        ]  # PILLAR and VOID are last
        free = np.array(walkable)[self.raster]
        reach = CLEARANCE // CELL
        found = []
        for room in self.rooms:
            for y in range(room.rect.y0 + CLEARANCE, room.rect.y1 - CLEARANCE + 1, 32):
                for x in range(room.rect.x0 + CLEARANCE, room.rect.x1 - CLEARANCE + 1, 32):
                    row, column = y // CELL, x // CELL
                    if not free[row - reach : row + reach, column - reach : column + reach].all():
                        continue
                    if all(max(abs(t.x - x), abs(t.y - y)) > 32 + KINDS[t.kind].radius for t in self.things):
                        found.append((float(x), float(y)))
        return found

    def reachable(self) -> set[int]:
        """Rooms that a player reaches from the first one on foot."""
        heights = np.array([(a.floor, a.ceiling) for a in self.areas])
        neighbours: dict[int, set[int]] = {n: set() for n in range(len(self.areas))}
        for a, b in ((self.raster[1:], self.raster[:-1]), (self.raster[:, 1:], self.raster[:, :-1])):
            edge = (a != b) & (a >= 0) & (b >= 0)
            for one, other in set(zip(a[edge].tolist(), b[edge].tolist(), strict=True)):
                floors, ceilings = heights[[one, other]].T
                if np.ptp(floors) <= STEP and ceilings.min() - floors.max() >= HEADROOM:
                    neighbours[one].add(other)
                    neighbours[other].add(one)
        seen, edge_of = {0}, [0]
        while edge_of:
            fresh = neighbours[edge_of.pop()] - seen
            seen |= fresh
            edge_of.extend(fresh)
        return {n for n in seen if n < len(self.rooms)}


def _cells(rect: Rect) -> tuple[slice, slice]:
    return slice(rect.y0 // CELL, rect.y1 // CELL), slice(rect.x0 // CELL, rect.x1 // CELL)


def make_plan(seed: int) -> Plan:
    """The floor plan of a seed; the same seed gives the same plan."""
    rng = random.Random(seed)
    rooms, doors = _rooms(rng)
    openings = _openings(rng, rooms, doors)
    blocks = _blocks(rng, rooms, openings)
    pictures = _pictures(rng, rooms, openings)
    return Plan(rooms, openings, blocks, pictures, _things(rng, rooms, openings, blocks))


def _rooms(rng: random.Random) -> tuple[tuple[Room, ...], set[tuple[int, int]]]:
    """Rooms next to each other, and the pairs that grew from one another."""
    kinds = [
        "courtyard",
        "corridor",
        *["room"] * 6,
        *rng.sample(["corridor", "courtyard", "hall", "room"], 2),
    ]
    rng.shuffle(kinds)
    kinds.insert(0, "hall")
    paints = [rng.sample(range(24), 24) for _ in range(3)]
    rects: list[Rect] = []
    rooms: list[Room] = []
    doors: set[tuple[int, int]] = set()
    for kind in kinds:
        found = _place(rng, kind, rects)
        if found is None:
            continue
        rect, parent = found
        number = len(rooms)
        if parent is not None:
            doors.add((parent, number))
        rects.append(rect)
        height = {"room": 128, "corridor": 128, "hall": rng.choice((160, 192)), "courtyard": 192}[kind]
        floor = 0 if kind == "courtyard" or rng.random() < 0.7 else rng.choice((16, 24))
        light = 248 if kind == "courtyard" else rng.choice((208, 216, 224, 232))
        wall, ground, ceiling = (order[number] for order in paints)
        rooms.append(Room(kind, rect, floor, height, wall, ground, ceiling, light))
    x0, y0 = min(r.x0 for r in rects), min(r.y0 for r in rects)
    return tuple(replace(r, rect=r.rect.moved(MARGIN - x0, MARGIN - y0)) for r in rooms), doors


def _size(rng: random.Random, kind: str) -> tuple[int, int]:
    if kind == "corridor":
        wide, high = 1, rng.randint(3, 4)
    elif kind == "room":
        wide, high = rng.choice(((2, 2), (2, 3), (3, 3), (3, 3), (3, 4)))
    elif kind == "hall":
        wide, high = rng.choice(((3, 4), (4, 4), (4, 5)))
    else:
        wide, high = rng.choice(((4, 4), (4, 5), (5, 5)))
    return (wide * PANEL, high * PANEL) if rng.random() < 0.5 else (high * PANEL, wide * PANEL)


def _place(rng: random.Random, kind: str, rects: list[Rect]) -> tuple[Rect, int | None] | None:
    """A free rectangle next to a room, and which room; None when there is no space for it.

    Of several it is the one that shares walls with the most rooms, so that there are ways around.
    """
    if not rects:
        return Rect(0, 0, *_size(rng, kind)), None
    found: list[tuple[Rect, int]] = []
    for _ in range(TRIES):
        wide, high = _size(rng, kind)
        parent = rng.randrange(len(rects))
        rect = _beside(rng, rects[parent], wide, high)
        every = [*rects, rect]
        extents = (
            max(r.x1 for r in every) - min(r.x0 for r in every),
            max(r.y1 for r in every) - min(r.y0 for r in every),
        )
        if max(extents) <= EXTENT and not any(rect.grown(WALL).meets(r) for r in rects):
            found.append((rect, parent))
        if len(found) == CANDIDATES:
            break
    return max(found, key=lambda f: sum(_gap(f[0], r) is not None for r in rects), default=None)


def _beside(rng: random.Random, rect: Rect, wide: int, high: int) -> Rect:
    """A rectangle of that size on any side of another one, which it faces along a panel or more."""
    side = rng.choice(SIDES)
    if side in ("west", "east"):
        x = rect.x0 - WALL - wide if side == "west" else rect.x1 + WALL
        y = rng.randrange(rect.y0 - high + PANEL, rect.y1 - PANEL + 1, PANEL // 2)
    else:
        x = rng.randrange(rect.x0 - wide + PANEL, rect.x1 - PANEL + 1, PANEL // 2)
        y = rect.y0 - WALL - high if side == "south" else rect.y1 + WALL
    return Rect(x, y, x + wide, y + high)


def _gap(a: Rect, b: Rect) -> Rect | None:
    """The wall that two rooms share, when they face each other over it along a panel or more."""
    for one, other in ((a, b), (b, a)):
        low, high = max(one.y0, other.y0), min(one.y1, other.y1)
        if one.x1 + WALL == other.x0 and high - low >= PANEL:
            return Rect(one.x1, low, other.x0, high)
        low, high = max(one.x0, other.x0), min(one.x1, other.x1)
        if one.y1 + WALL == other.y0 and high - low >= PANEL:
            return Rect(low, one.y1, high, other.y0)
    return None


def _openings(
    rng: random.Random, rooms: tuple[Room, ...], doors: set[tuple[int, int]]
) -> tuple[Opening, ...]:
    """A doorway for each pair of ``doors``; more doorways, and windows, where other rooms share a wall."""
    found = []
    for b, room in enumerate(rooms):
        for a, other in enumerate(rooms[:b]):
            gap = _gap(other.rect, room.rect)
            if gap is None:
                continue
            kind = "door" if (a, b) in doors or rng.random() < 0.4 else "window"
            if kind == "window" and rng.random() < 0.25:
                continue
            upright = gap.x1 - gap.x0 == WALL
            low, high = (gap.y0, gap.y1) if upright else (gap.x0, gap.x1)
            wide = 96 if kind == "window" or high - low < 2 * PANEL else rng.choice((64, 96, 128))
            at = low + (rng.randrange((high - low) // PANEL) * PANEL) + (PANEL - wide) // 2
            span = Rect(gap.x0, at, gap.x1, at + wide) if upright else Rect(at, gap.y0, at + wide, gap.y1)
            floors = other.floor, room.floor
            ceilings = other.floor + other.height, room.floor + room.height
            if kind == "door":
                floor, top = min(floors), max(floors) + round(DOOR * min(other.height, room.height))
            else:
                floor, top = max(floors) + SILL, min(ceilings) - WINDOW_TOP
            found.append(Opening(kind, span, (a, b), floor, top))
    return tuple(found)


def _clear(rect: Rect, openings: tuple[Opening, ...], blocks: list[Block], by: int) -> bool:
    """Whether a rectangle keeps clear of doorways, of windows and of other blocks."""
    wide = rect.grown(by)
    return not any(wide.meets(o.rect) for o in openings) and not any(wide.meets(b.rect) for b in blocks)


def _blocks(rng: random.Random, rooms: tuple[Room, ...], openings: tuple[Opening, ...]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for number, room in enumerate(rooms):
        r = room.rect
        wide, high = r.size
        if room.kind == "hall" and rng.random() < 0.6:
            for x in (r.x0 + PANEL - 16, r.x1 - PANEL - 16):
                for y in (r.y0 + PANEL - 16, r.y1 - PANEL - 16):
                    blocks.append(Block("pillar", Rect(x, y, x + 32, y + 32), number, 0, 0))
        elif room.kind in ("hall", "courtyard") and rng.random() < 0.5:
            x, y = (round(c) // 32 * 32 - PANEL // 2 for c in room.rect.centre)
            rect = Rect(x, y, x + PANEL, y + PANEL)
            kind = "bed" if room.outdoor and rng.random() < 0.5 else "dais"
            blocks.append(Block(kind, rect, number, 32 if kind == "bed" else 16, rng.randrange(8)))
        elif room.kind in ("room", "courtyard") and min(wide, high) >= 3 * PANEL and rng.random() < 0.6:
            strip = rng.choice(
                (
                    Rect(r.x0, r.y0, r.x1, r.y0 + PANEL), Rect(r.x0, r.y1 - PANEL, r.x1, r.y1),
                    Rect(r.x0, r.y0, r.x0 + PANEL, r.y1), Rect(r.x1 - PANEL, r.y0, r.x1, r.y1),
                )
            )  # fmt: skip
            if _clear(strip, openings, blocks, 16):
                blocks.append(Block("dais", strip, number, rng.choice((16, 24)), 0))
        if room.kind == "corridor":
            continue
        for _ in range(rng.choice((0, 1, 1, 2))):
            w, h = rng.choice(((64, 64), (64, 64), (128, 64), (64, 128)))
            x = rng.choice((r.x0, r.x1 - w)) if rng.random() < 0.7 else rng.randrange(r.x0, r.x1 - w + 1, 64)
            y = rng.choice((r.y0, r.y1 - h))
            rect = Rect(x, y, x + w, y + h)
            if _clear(rect, openings, blocks, 96):
                kind = "bed" if room.outdoor else "crate"
                tall = 32 if w != h else rng.choice((40, 56))
                blocks.append(Block(kind, rect, number, tall, rng.randrange(8)))
    return tuple(blocks)


def walls_of(room: Room) -> dict[str, tuple[int, int]]:
    """Where the wall of each side begins and how long it is, from its left end seen from inside."""
    (wide, high), r = room.rect.size, room.rect
    return {"west": (r.y0, high), "north": (r.x0, wide), "east": (r.y1, high), "south": (r.x1, wide)}


def side_of(room: Room, rect: Rect) -> str:
    """The side of a room on which an opening lies."""
    if rect.x1 <= room.rect.x0:
        return "west"
    if rect.x0 >= room.rect.x1:
        return "east"
    return "south" if rect.y1 <= room.rect.y0 else "north"


def span_on(room: Room, side: str, rect: Rect) -> tuple[int, int]:
    """From where to where a rectangle reaches along a wall, from its left end seen from inside."""
    start = walls_of(room)[side][0]
    low, high = (rect.y0, rect.y1) if side in ("west", "east") else (rect.x0, rect.x1)
    return (low - start, high - start) if side in ("west", "north") else (start - high, start - low)


def _pictures(
    rng: random.Random, rooms: tuple[Room, ...], openings: tuple[Opening, ...]
) -> tuple[Picture, ...]:
    """Pictures on walls, none twice in a plan; every room has two or more where its walls allow it."""
    numbers = rng.sample(range(PICTURES), PICTURES)
    found = []
    for number, room in enumerate(rooms):
        free = []
        for side, (_, length) in walls_of(room).items():
            taken = [
                span_on(room, side, o.rect)
                for o in openings
                if number in o.rooms and side_of(room, o.rect) == side
            ]
            for panel in range(length // PANEL):
                low, high = panel * PANEL, (panel + 1) * PANEL
                if all(high <= start - JAMB or low >= end + JAMB for start, end in taken):
                    free.append((side, panel))
        rng.shuffle(free)
        count = max(2, round(len(free) * rng.uniform(0.35, 0.6)))
        found += [Picture(number, side, panel, numbers.pop()) for side, panel in free[:count]]
    return tuple(found)


def _things(
    rng: random.Random, rooms: tuple[Room, ...], openings: tuple[Opening, ...], blocks: tuple[Block, ...]
) -> tuple[Thing, ...]:
    """Things in corners and, outdoors, along the walls: where nobody walks into them."""
    found = []
    for number, room in enumerate(rooms):
        if room.kind == "corridor":
            continue
        kinds = [name for name, kind in KINDS.items() if (kind.outdoor if room.outdoor else kind.indoor)]
        r = room.rect
        spots = [(x, y) for x in (r.x0 + 28, r.x1 - 28) for y in (r.y0 + 28, r.y1 - 28)]
        if room.outdoor:
            spots += [(round(r.centre[0]), y) for y in (r.y0 + 48, r.y1 - 48)]
            spots += [(x, round(r.centre[1])) for x in (r.x0 + 48, r.x1 - 48)]
        rng.shuffle(spots)
        kind = rng.choice(kinds)
        for x, y in spots[: rng.choice((0, 1, 2, 2)) + 2 * room.outdoor]:
            kind = kind if rng.random() < 0.5 else rng.choice(kinds)
            box = Rect(x - 28, y - 28, x + 28, y + 28)
            if _clear(box, openings, list(blocks), 32):
                found.append(Thing(kind, number, x, y))
    return tuple(found)
