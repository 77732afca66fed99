"""A plan and a style become the WAD file that the engine loads: a text map (UDMF), textures, sprites and a palette.

Formats: UDMF 1.1 with the extensions of ZDoom, and the directory of a PWAD. The engine builds the nodes itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worldcompass.worlds.doom.levels.palette import TRANSPARENT, colormap, colours, index, playpal, shifted
from worldcompass.worlds.doom.levels.plan import (
    CELL,
    JAMB,
    PANEL,
    PILLAR,
    Area,
    Plan,
    Room,
    side_of,
    span_on,
    walls_of,
)
from worldcompass.worlds.doom.levels.sprites import KINDS, all_sprites
from worldcompass.worlds.doom.levels.styles import Style
from worldcompass.worlds.doom.levels.textures import SIZE, canvas, crate, draw, wall, with_picture

LUMP = "MAP01"
SKY = "F_SKY1"
SKY_TEXTURE = "WCSKY"
SKY_SIZE = (128, 1024)  # pixels; 1024 go once round
MAP_INFO = f'map {LUMP} "Level" {{ sky1 = "{SKY_TEXTURE}" }}\n'
EVERYWHERE = "".join(f"skill{n}=true;" for n in range(1, 6)) + "single=true;coop=true;dm=true;"
WALLS = {  # side: from a cell to its neighbour, and from the lower left corner to the ends of the line
    "west": ((0, -1), (0, 0), (0, 1)),
    "north": ((1, 0), (0, 1), (1, 1)),
    "east": ((0, 1), (1, 1), (1, 0)),
    "south": ((-1, 0), (1, 0), (0, 0)),
}


def make_wad(plan: Plan, style: Style) -> bytes:
    """The bytes of a PWAD with the map MAP01; the same plan and style give the same bytes."""
    textures = _textures(plan, style)
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


def _pick(paints: tuple[str, ...], number: int) -> int:
    return number % len(paints)


def _wall_name(room: Room, style: Style) -> str:
    paints, letter = (style.outside, "O") if room.outdoor else (style.walls, "W")
    return f"{letter}{_pick(paints, room.wall):02d}"


def _paint_of(room: Room, style: Style) -> str:
    paints = style.outside if room.outdoor else style.walls
    return paints[_pick(paints, room.wall)]


def _floor_name(room: Room, style: Style) -> str:
    paints, letter = (style.grounds, "G") if room.outdoor else (style.floors, "F")
    return f"{letter}{_pick(paints, room.ground):02d}"


def _textures(plan: Plan, style: Style) -> dict[str, np.ndarray]:
    """Every texture of a level by its name."""
    found = {f"W{n:02d}": wall(paint, style.trim) for n, paint in enumerate(style.walls)}
    found |= {f"O{n:02d}": wall(paint, style.trim) for n, paint in enumerate(style.outside)}
    found |= {f"F{n:02d}": draw(paint) for n, paint in enumerate(style.floors)}
    found |= {f"G{n:02d}": draw(paint) for n, paint in enumerate(style.grounds)}
    found |= {f"C{n:02d}": draw(paint) for n, paint in enumerate(style.ceilings)}
    found |= {f"CR{n}": crate(*colours) for n, colours in enumerate(style.crates)}
    found |= {
        "TRIM": canvas(style.trim),
        "LINTEL": _lintel(style),
        "STEP": _step(style),
        "PILLAR": _pillar(style),
    }
    found |= {"HEDGE": draw("blobs/green.3/green.2"), "BED": _bed(), SKY_TEXTURE: sky(style)}
    for number, picture in enumerate(plan.pictures):
        room = plan.rooms[picture.room]
        found[f"P{number:03d}"] = with_picture(wall(_paint_of(room, style), style.trim), picture.number)
    return found


def _lintel(style: Style) -> np.ndarray:
    image = np.full((SIZE, SIZE), shifted(index(style.trim), 1), np.uint8)
    image[-14:] = index(style.trim)
    return image


def _step(style: Style) -> np.ndarray:
    image = canvas(style.trim)
    image[:8] = shifted(index(style.trim), 2)
    return image


def _pillar(style: Style) -> np.ndarray:
    image = np.full((SIZE, SIZE), shifted(index(style.trim), 2), np.uint8)
    image[:16] = image[-16:] = index(style.trim)
    return image


def _bed() -> np.ndarray:
    image = draw("blobs/green.3/green.4")
    flowers = draw("blobs/green.3/yellow.6") == index("yellow.6")
    image[flowers & (np.indices(image.shape).sum(0) % 64 < 24)] = index("pink.5")
    return image


def sky(style: Style) -> np.ndarray:
    """The sky all around: bands of colour, clouds, hills and one sun, uint8 (128, 1024)."""
    high, wide = SKY_SIZE
    y, x = np.mgrid[:high, :wide]
    top, low, cloud = (index(name) for name in style.sky)
    image = np.where(y < 52, top, low).astype(np.uint8)
    rng = np.random.default_rng(sum(map(ord, "".join(style.sky) + style.hills)))
    for _ in range(13):
        at, over, reach = rng.integers(wide), rng.integers(14, 70), rng.integers(26, 60)
        for part in range(3):
            dx = abs((x - at - (part - 1) * reach + wide // 2) % wide - wide // 2)
            image[(dx / reach) ** 2 + ((y - over) / (9 + 5 * (part == 1))) ** 2 < 1] = cloud
    image[np.hypot(x - 300, y - 34) < 17] = index("yellow.7")
    phase = rng.uniform(0, 2 * np.pi, 2)
    turn = 2 * np.pi * x / wide
    far = 96 - 9 * np.sin(5 * turn + phase[0]) - 6 * np.sin(8 * turn)
    near = 110 - 7 * np.sin(7 * turn + phase[1])
    hills = index(style.hills)
    image[y > far] = shifted(hills, 1)
    image[y > near] = hills
    return image


@dataclass(frozen=True)
class _Line:
    """A straight line between an area on its right and another one, or a wall."""

    side: str
    """Of the front area on which it lies."""
    ends: tuple[tuple[int, int], tuple[int, int]]
    front: int
    back: int
    tag: str
    """Name of the texture of a wall, empty for that of its room."""


def _text_map(plan: Plan, style: Style) -> str:
    """The lump TEXTMAP."""
    corners: dict[tuple[int, int], int] = {}
    lines, sides = [], []

    def corner(point: tuple[int, int]) -> int:
        return corners.setdefault(point, len(corners))

    for line in _lines(plan):
        front, back = plan.areas[line.front], plan.areas[line.back] if line.back >= 0 else None
        words = f"v1={corner(line.ends[0])};v2={corner(line.ends[1])};sidefront={len(sides)};"
        sides.append(_side(plan, style, line, front, line.front, back))
        if back is None:
            words += "blocking=true;"
        else:
            words += f"sideback={len(sides)};twosided=true;"
            sides.append(_side(plan, style, line, back, line.back, front))
            if "window" in (front.kind, back.kind):
                words += "blocking=true;dontpegtop=true;dontpegbottom=true;"
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
    """Every line once; two cells' edges are one line where nothing changes between them."""
    grid = np.pad(plan.raster, 1, constant_values=-1)
    tags = _tags(plan)
    for side, ((down, right), start, end) in WALLS.items():
        upright = side in ("west", "east")
        other = np.roll(grid, (-down, -right), (0, 1))
        # A line between two areas belongs to the one with the higher number: an opening or a block.
        edges = (grid >= 0) & (grid != other) & (other < grid)
        wall_of = other < 0
        rows, columns = np.nonzero(edges.T)[::-1] if upright else np.nonzero(edges)
        if side in ("east", "south"):
            rows, columns = rows[::-1], columns[::-1]
        open_line: _Line | None = None
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            x, y = (column - 1) * CELL, (row - 1) * CELL
            first, last = ((x + CELL * a, y + CELL * b) for a, b in (start, end))
            front, back = int(grid[row, column]), int(other[row, column])
            tag = ""
            if wall_of[row, column]:
                tag = "PILLAR" if back == PILLAR else _tag(plan, tags, front, side, first, last)
            line = _Line(side, (first, last), front, back, tag)
            if open_line is not None and open_line.ends[1] == first and _same(open_line, line):
                open_line = _Line(side, (open_line.ends[0], last), front, back, tag)
                continue
            if open_line is not None:
                yield open_line
            open_line = line
        if open_line is not None:
            yield open_line


def _same(a: _Line, b: _Line) -> bool:
    return (a.front, a.back, a.tag) == (b.front, b.back, b.tag)


def _tags(plan: Plan) -> dict[tuple[int, str], list[tuple[int, int, str]]]:
    """Parts of the walls of each room and side that have a texture of their own: from, to, name."""
    found: dict[tuple[int, str], list[tuple[int, int, str]]] = {}
    for number, picture in enumerate(plan.pictures):
        span = (picture.panel * PANEL, (picture.panel + 1) * PANEL, f"P{number:03d}")
        found.setdefault((picture.room, picture.side), []).append(span)
    for opening in plan.openings:
        if opening.kind != "door":
            continue
        for number in opening.rooms:
            side = side_of(plan.rooms[number], opening.rect)
            start, end = span_on(plan.rooms[number], side, opening.rect)
            parts = [(start - JAMB, start, "TRIM"), (end, end + JAMB, "TRIM")]
            found.setdefault((number, side), []).extend(parts)
    return found


def _tag(
    plan: Plan,
    tags: dict[tuple[int, str], list[tuple[int, int, str]]],
    area: int,
    side: str,
    first: tuple[int, int],
    last: tuple[int, int],
) -> str:
    number = plan.areas[area].room
    if plan.areas[area].kind in ("door", "window"):
        return "TRIM"
    start = walls_of(plan.rooms[number])[side][0]
    along = abs((first[1] if side in ("west", "east") else first[0]) - start)
    return next((tag for low, high, tag in tags.get((number, side), []) if low <= along < high), "")


def _side(plan: Plan, style: Style, line: _Line, area: Area, number: int, beyond: Area | None) -> str:
    """The words of one side of a line: its sector, its textures and how they lie."""
    room = plan.rooms[area.room]
    words = f"sector={number};"
    if area.kind in ("room", "dais", "crate", "bed"):
        stretch = SIZE / room.height
        start = walls_of(room)[line.side][0] if beyond is None else 0
        along = _along(room, line, number == line.front) if beyond is not None else 0
        if beyond is None:
            along = abs((line.ends[0][1] if line.side in ("west", "east") else line.ends[0][0]) - start)
        offset = along % PANEL
    else:
        stretch, offset = 1.0, 0
    if beyond is None:
        name = line.tag or _wall_name(room, style)
        offset = 0 if name == "PILLAR" else offset
        return (
            words
            + f'texturemiddle="{name}";offsetx={offset};'
            + (f"scaley_mid={stretch:.4f};" if stretch != 1 else "")
        )
    wall_name = _wall_name(room, style)
    if beyond.ceiling < area.ceiling:
        if beyond.kind == "window":
            words += f'texturetop="{wall_name}";offsetx_top={offset};scaley_top={stretch:.4f};'
        else:
            words += 'texturetop="LINTEL";'
    if beyond.floor > area.floor:
        if beyond.kind == "window":
            words += f'texturebottom="{wall_name}";offsetx_bottom={offset};scaley_bottom={stretch:.4f};'
        elif beyond.kind in ("crate", "bed"):
            name = "HEDGE" if beyond.kind == "bed" else f"CR{beyond.look % len(style.crates)}"
            words += f'texturebottom="{name}";scaley_bottom={64 / (beyond.floor - area.floor):.4f};'
        else:
            words += 'texturebottom="STEP";'
    return words


def _along(room: Room, line: _Line, is_front: bool) -> int:
    """How far along the wall of its room, from the left end seen from inside, a side begins."""
    turned = {"west": "east", "east": "west", "north": "south", "south": "north"}
    side = line.side if is_front else turned[line.side]
    begin = line.ends[0] if is_front else line.ends[1]
    return abs((begin[1] if side in ("west", "east") else begin[0]) - walls_of(room)[side][0])


def _sector(plan: Plan, style: Style, area: Area) -> str:
    room = plan.rooms[area.room]
    ceiling = SKY if room.outdoor else f"C{_pick(style.ceilings, room.ceiling):02d}"
    floor = _floor_name(room, style)
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
