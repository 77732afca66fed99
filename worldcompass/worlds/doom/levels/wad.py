"""A plan and a style become the WAD file that the engine loads: a text map (UDMF), textures, sprites and a palette.

Formats: UDMF 1.1 with the extensions of ZDoom, and the directory of a PWAD. The engine builds the nodes itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from worldcompass.worlds.doom.levels.palette import colormap, colours, playpal
from worldcompass.worlds.doom.levels.plan import (
    CELL,
    JAMB,
    PANEL,
    PILLAR,
    VOID,
    Area,
    Plan,
    Room,
    side_of,
    span_on,
    walls_of,
)
from worldcompass.worlds.doom.levels.sprites import KINDS, all_sprites
from worldcompass.worlds.doom.levels.styles import Style
from worldcompass.worlds.doom.levels.textures import (
    SIZE,
    box,
    canvas,
    crate,
    draw,
    flowers,
    lintel,
    pillar,
    sky,
    step,
    wall,
    with_picture,
)

LUMP = "MAP01"
SKY = "F_SKY1"
SKY_TEXTURE = "WCSKY"
MAP_INFO = f'map {LUMP} "Level" {{ sky1 = "{SKY_TEXTURE}" }}\n'
EVERYWHERE = "".join(f"skill{n}=true;" for n in range(1, 6)) + "single=true;coop=true;dm=true;"
EDGES = {  # side of a cell: rows and columns to its neighbour, and both ends (x, y) with the cell on the right
    "west": ((0, -1), (0, 0), (0, 1)),
    "north": ((1, 0), (0, 1), (1, 1)),
    "east": ((0, 1), (1, 1), (1, 0)),
    "south": ((-1, 0), (1, 0), (0, 0)),
}


def make_wad(plan: Plan, style: Style) -> bytes:
    """The bytes of a PWAD with the map MAP01; the same plan and style give the same bytes."""
    textures = textures_of(plan, style)
    lumps: list[tuple[str, bytes]] = [
        ("PLAYPAL", playpal()), ("COLORMAP", colormap()), ("ZMAPINFO", MAP_INFO.encode()),
        (LUMP, b""), ("TEXTMAP", _text_map(plan, style).encode()), ("ENDMAP", b""),
        ("TX_START", b""), *((name, png(image)) for name, image in textures.items()), ("TX_END", b""),
        ("S_START", b""), *((name, png(image, feet=True)) for name, image in all_sprites().items()), ("S_END", b""),
    ]  # fmt: skip
    body, directory = b"", b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory


def png(image: np.ndarray, feet: bool = False) -> bytes:
    """A PNG of palette indices, uint8 (h, w); with ``feet`` its origin is the middle of its lower edge."""
    high, wide = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", wide, high, 8, 3, 0, 0, 0))]
    if feet:
        chunks.append((b"grAb", struct.pack(">ii", wide // 2, high)))
    chunks += [(b"PLTE", colours().tobytes()), (b"tRNS", bytes([0]))]
    chunks += [(b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _wall(room: Room, style: Style) -> tuple[str, str]:
    """Name and paint of a room's wall."""
    paints, letter = (style.outside, "O") if room.outdoor else (style.walls, "W")
    number = room.wall % len(paints)
    return f"{letter}{number}", paints[number]


def _floor(room: Room, style: Style) -> tuple[str, str]:
    """Name and paint of a room's floor."""
    paints, letter = (style.grounds, "G") if room.outdoor else (style.floors, "F")
    number = room.ground % len(paints)
    return f"{letter}{number}", paints[number]


def floor_paint(room: Room, style: Style) -> str:
    """The paint of a room's floor."""
    return _floor(room, style)[1]


def textures_of(plan: Plan, style: Style) -> dict[str, np.ndarray]:
    """Every texture of a level by its name."""
    found = {f"W{n}": wall(paint, style.trim) for n, paint in enumerate(style.walls)}
    found |= {f"O{n}": wall(paint, style.trim) for n, paint in enumerate(style.outside)}
    found |= {f"F{n}": draw(paint) for n, paint in enumerate(style.floors)}
    found |= {f"G{n}": draw(paint) for n, paint in enumerate(style.grounds)}
    found |= {f"C{n}": draw(paint) for n, paint in enumerate(style.ceilings)}
    found |= {f"CR{n}": crate(*pair) for n, pair in enumerate(style.crates)}
    trim = style.trim
    found |= {"TRIM": canvas(trim), "LINTEL": lintel(trim), "STEP": step(trim), "PILLAR": pillar(trim)}
    found |= {f"BX{n}": box(*pair) for n, pair in enumerate(style.crates)}
    found |= {"BED": flowers(), SKY_TEXTURE: sky(*style.sky, style.hills)}
    for number, picture in enumerate(plan.pictures):
        room = plan.rooms[picture.room]
        found[f"P{number:03d}"] = with_picture(wall(_wall(room, style)[1], style.trim), picture.number)
    return found


@dataclass(frozen=True)
class _Line:
    """A straight line with an area on its right, and another one or a wall on its left."""

    side: str
    """Of the right area on which it lies."""
    ends: tuple[tuple[int, int], tuple[int, int]]
    front: int
    """Number of the area on its right."""
    back: int
    """Number of the area on its left, or VOID or PILLAR."""
    texture: str = ""
    """Of a wall; empty for that of the room."""

    def turned(self) -> _Line:
        """The same line seen from its left."""
        opposite = {"west": "east", "east": "west", "north": "south", "south": "north"}
        return _Line(opposite[self.side], (self.ends[1], self.ends[0]), self.back, self.front)

    def continued(self, other: _Line) -> _Line | None:
        """This line and the next one as one; None when they differ or do not meet."""
        if other != replace(self, ends=other.ends) or other.ends[0] != self.ends[1]:
            return None
        return replace(self, ends=(self.ends[0], other.ends[1]))


def _text_map(plan: Plan, style: Style) -> str:
    """The lump TEXTMAP."""
    corners: dict[tuple[int, int], int] = {}
    lines: list[str] = []
    sides: list[str] = []
    for line in _lines(plan):
        v1, v2 = (corners.setdefault(end, len(corners)) for end in line.ends)
        words = f"v1={v1};v2={v2};sidefront={len(sides)};"
        sides.append(_side(plan, style, line))
        if line.back < 0:
            words += "blocking=true;"
        else:
            words += f"sideback={len(sides)};twosided=true;"
            sides.append(_side(plan, style, line.turned()))
            if "window" in (plan.areas[line.front].kind, plan.areas[line.back].kind):
                words += "blocking=true;dontpegtop=true;dontpegbottom=true;"  # as the wall around it
        lines.append(f"linedef{{{words}}}")
    return "\n".join(
        [
            'namespace="zdoom";',
            *(f"vertex{{x={x};y={y};}}" for x, y in corners),
            *lines,
            *(f"sidedef{{{words}}}" for words in sides),
            *(f"sector{{{_sector(plan, style, area)}}}" for area in plan.areas),
            *_things(plan),
            "",
        ]
    )


def _lines(plan: Plan) -> Iterator[_Line]:
    """Every line once; edges of neighbouring cells are one line where nothing changes between them."""
    grid = np.pad(plan.raster, 1, constant_values=VOID)
    inlays = _inlays(plan)
    for side, ((up, right), *corners) in EDGES.items():
        beyond = np.roll(grid, (-up, -right), (0, 1))
        # A line between two areas is drawn for the higher number: an opening or a block.
        cells = np.argwhere((grid >= 0) & (beyond < grid))
        if side in ("west", "east"):
            cells = cells[np.argsort(cells[:, 1], kind="stable")]
        if side in ("east", "south"):
            cells = cells[::-1]
        line: _Line | None = None
        for row, column in cells.tolist():
            first, last = ((CELL * (column - 1 + x), CELL * (row - 1 + y)) for x, y in corners)
            edge = _Line(side, (first, last), int(grid[row, column]), int(beyond[row, column]))
            if edge.back < 0:
                edge = replace(edge, texture=_wall_texture(plan, inlays, edge))
            longer = None if line is None else line.continued(edge)
            if line is not None and longer is None:
                yield line
            line = longer or edge
        if line is not None:
            yield line


Inlays = dict[tuple[int, str], list[tuple[int, int, str]]]
"""Parts of the walls of a room and side that have a texture of their own: from, to, name."""


def _inlays(plan: Plan) -> Inlays:
    found: Inlays = {}
    for number, picture in enumerate(plan.pictures):
        start = picture.panel * PANEL
        found.setdefault((picture.room, picture.side), []).append((start, start + PANEL, f"P{number:03d}"))
    for opening in plan.openings:
        for number in opening.rooms if opening.kind == "door" else ():
            side = side_of(plan.rooms[number], opening.rect)
            start, end = span_on(plan.rooms[number], side, opening.rect)
            parts = [(start - JAMB, start, "TRIM"), (end, end + JAMB, "TRIM")]
            found.setdefault((number, side), []).extend(parts)
    return found


def _along(plan: Plan, line: _Line) -> int:
    """Where a line begins along its room's wall, from the left end seen from inside."""
    (x, y), start = line.ends[0], walls_of(plan.rooms[plan.areas[line.front].room])[line.side][0]
    return abs((y if line.side in ("west", "east") else x) - start)


def _wall_texture(plan: Plan, inlays: Inlays, edge: _Line) -> str:
    """Name of the texture of a wall's edge; empty for that of its room."""
    area = plan.areas[edge.front]
    if edge.back == PILLAR:
        return "PILLAR"
    if area.kind in ("door", "window"):
        return "TRIM"
    along = _along(plan, edge)
    parts = inlays.get((area.room, edge.side), [])
    return next((name for low, high, name in parts if low <= along < high), "")


def _side(plan: Plan, style: Style, line: _Line) -> str:
    """The words of a line's right side: its sector, its textures and how they lie."""
    area = plan.areas[line.front]
    room = plan.rooms[area.room]
    words = f"sector={line.front};"
    stretch = SIZE / room.height  # a texture is as high as its wall
    offset = _along(plan, line) % PANEL
    if line.back < 0:
        name = line.texture or _wall(room, style)[0]
        return f'{words}texturemiddle="{name}";offsetx={offset};scaley_mid={stretch:.4f};'
    beyond = plan.areas[line.back]
    if beyond.kind == "window":
        for part in ("top", "bottom"):
            name = f'texture{part}="{_wall(room, style)[0]}"'
            words += f"{name};offsetx_{part}={offset};scaley_{part}={stretch:.4f};"
        return words
    if beyond.ceiling < area.ceiling:
        words += 'texturetop="LINTEL";'
    if (rise := beyond.floor - area.floor) > 0:
        if beyond.kind in ("crate", "bed"):
            name = f"{'BX' if beyond.kind == 'bed' else 'CR'}{beyond.look % len(style.crates)}"
            words += f'texturebottom="{name}";scaley_bottom={SIZE / 2 / rise:.4f};'
        else:
            words += 'texturebottom="STEP";'
    return words


def _sector(plan: Plan, style: Style, area: Area) -> str:
    room = plan.rooms[area.room]
    ceiling = SKY if room.outdoor else f"C{room.ceiling % len(style.ceilings)}"
    floor = _floor(room, style)[0]
    if area.kind in ("door", "window"):
        floor = ceiling = "TRIM"
    elif area.kind == "bed":
        floor = "BED"
    elif area.kind == "crate":
        floor = f"CR{area.look % len(style.crates)}"
    corner = area.rect if area.kind in ("crate", "bed") else room.rect
    return (
        f'heightfloor={area.floor};heightceiling={area.ceiling};texturefloor="{floor}";textureceiling="{ceiling}";'
        f"lightlevel={room.light};xpanningfloor={-corner.x0 % SIZE};ypanningfloor={corner.y0 % SIZE};"
        f"xpanningceiling={-room.rect.x0 % SIZE};ypanningceiling={room.rect.y0 % SIZE};"
    )


def _things(plan: Plan) -> list[str]:
    x, y = plan.places()[0]
    rows = [(x, y, 90, 1)] + [(t.x, t.y, 0, KINDS[t.kind].editor_number) for t in plan.things]
    return [f"thing{{x={x};y={y};angle={angle};type={kind};{EVERYWHERE}}}" for x, y, angle, kind in rows]
