"""A sheet of levels: each one's plan from above, and views of it."""

from __future__ import annotations

import cv2
import numpy as np

from worldcompass.worlds.doom.engine.collect import start_place
from worldcompass.worlds.doom.engine.engine import Engine
from worldcompass.worlds.doom.engine.maps import level_map
from worldcompass.worlds.doom.levels.palette import colours, index
from worldcompass.worlds.doom.levels.plan import PANEL, VOID, Picture, Plan, walls_of
from worldcompass.worlds.doom.levels.splits import Level
from worldcompass.worlds.doom.levels.sprites import KINDS
from worldcompass.worlds.doom.levels.styles import STYLES, Style
from worldcompass.worlds.doom.levels.textures import INKS, SHAPES, draw
from worldcompass.worlds.doom.levels.wad import floor_paint

PAPER = (244, 241, 234)
INK = (60, 56, 50)
GAP = 10  # pixels around the parts of a sheet
TITLE = 22
STROKE = 3  # of a picture


def plan_picture(plan: Plan, style: Style, size: int) -> np.ndarray:
    """A plan from above, north up, in the colours of its floors; uint8 (size, size, 3).

    Walls are dark, windows blue; a picture is a short stroke in the colour of its shape, a thing a dot.
    """
    paint = np.full((len(plan.areas) + 2, 3), INK, np.uint8)  # the last two rows are those of PILLAR and VOID
    paint[VOID] = PAPER
    for number, area in enumerate(plan.areas):
        room = plan.rooms[area.room]
        colour = colours()[draw(floor_paint(room, style))].mean((0, 1))
        if area.kind in ("crate", "bed"):
            crate = style.crates[area.look % len(style.crates)][0]
            colour = colours()[index(crate if area.kind == "crate" else "green.3")]
        elif area.kind == "dais":
            colour = colour * 0.85
        elif area.kind != "room":
            colour = colours()[index("sky.5" if area.kind == "window" else style.trim)]
        paint[number] = colour
    image = paint[plan.raster][::-1]
    inside = (plan.raster != VOID)[::-1].astype(np.uint8)
    wall = cv2.dilate(inside, np.ones((3, 3), np.uint8)).astype(bool) & ~inside.astype(bool)
    image[wall] = INK
    scale = size / max(plan.size)  # pixels per unit
    wide, high = (round(side * scale) for side in plan.size)
    image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_NEAREST)

    def pixel(x: float, y: float) -> tuple[int, int]:
        return round(x * scale), high - round(y * scale)

    for picture in plan.pictures:
        ink = colours()[index(INKS[picture.number // len(SHAPES)][0])].tolist()
        start, end = (pixel(*point) for point in _stroke(plan, picture))
        cv2.line(image, start, end, ink, STROKE)
    for thing in plan.things:
        cv2.circle(image, pixel(thing.x, thing.y), max(2, round(KINDS[thing.kind].radius * scale)), INK, -1)
    paper = np.full((size, size, 3), PAPER, np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    paper[top : top + high, left : left + wide] = image
    return paper


def _stroke(plan: Plan, picture: Picture) -> tuple[tuple[int, int], tuple[int, int]]:
    """Both ends of the panel of a picture, just inside of its wall."""
    room, side = plan.rooms[picture.room], picture.side
    along = 1 if side in ("west", "north") else -1
    start = walls_of(room)[side][0] + along * picture.panel * PANEL
    low, high = start + along * 24, start + along * (PANEL - 24)
    x0, y0, x1, y1 = room.rect.x0 + 8, room.rect.y0 + 8, room.rect.x1 - 8, room.rect.y1 - 8
    if side in ("west", "east"):
        x = x0 if side == "west" else x1
        return (x, low), (x, high)
    y = y0 if side == "south" else y1
    return (low, y), (high, y)


def views(level: Level, count: int, seed: int) -> np.ndarray:
    """The first frames of episodes in a level, uint8 (count, 48, 64, 3).

    Raises:
        UserError: when ViZDoom does not start.
    """
    rng = np.random.default_rng(seed)
    with Engine(level_map(level)) as engine:
        starts = [start_place(engine, rng, ()) for _ in range(count)]
        return np.concatenate([engine.reset(0, start).frames_Fhw3 for start in starts])


def strip(level: Level, views_Vhw3: np.ndarray, rows: int, enlarged: int) -> np.ndarray:
    """A level's part of a sheet: its name, its plan and, in ``rows`` rows, its enlarged views; uint8 (H, W, 3)."""
    big = views_Vhw3.repeat(enlarged, 1).repeat(enlarged, 2)
    cells = [_bordered(view, 0, GAP) for view in big]
    each = len(cells) // rows
    grid = np.vstack([np.hstack(cells[row * each : (row + 1) * each]) for row in range(rows)])
    plan = plan_picture(level.plan, STYLES[level.style], grid.shape[0] - GAP)
    body = np.hstack([_bordered(plan, GAP, GAP), grid])
    title = np.full((TITLE, body.shape[1], 3), PAPER, np.uint8)
    text, at = f"{level.name}   {level.style}", (GAP, TITLE - 7)
    cv2.putText(title, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return np.vstack([title, body])


def _bordered(image: np.ndarray, left: int, below: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, 0, below, left, GAP, cv2.BORDER_CONSTANT, value=PAPER)
