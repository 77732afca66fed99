"""Textures drawn by code: arrays of palette indices, 128 x 128, row 0 at the top.

From 2 m, 64 map units, a pixel of a 64 x 48 picture spans 2 units. Nothing here is finer than 6 units. The patterns
of walls repeat within 128 units, and they are as high as the wall.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from worldcompass.worlds.doom.levels.palette import TRANSPARENT, index, shifted

SIZE = 128
_Y, _X = np.mgrid[:SIZE, :SIZE]
BASEBOARD = SIZE - 12  # the rows below are the skirting of a wall, which shows where the floor begins
CORNICE = 8

Pattern = Callable[..., np.ndarray]


def canvas(colour: str) -> np.ndarray:
    """One colour, uint8 (128, 128)."""
    return np.full((SIZE, SIZE), index(colour), np.uint8)


def _tones(image: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """The image some steps lighter where ``tone`` says so."""
    out = image.copy()
    for steps in np.unique(tone):
        table = np.array([shifted(colour, int(steps)) for colour in range(256)], np.uint8)
        out[tone == steps] = table[image[tone == steps]]
    return out


def plain(colour: str, *_: str) -> np.ndarray:
    """One colour."""
    return canvas(colour)


def bricks(colour: str, mortar: str, high: int = 32, wide: int = 64) -> np.ndarray:
    """Courses of bricks in two tones."""
    row = _Y // high
    along = (_X + (row % 2) * (wide // 2)) % SIZE
    image = _tones(canvas(colour), -(((row * 2 + along // wide) % 3) == 0).astype(int))
    image[(_Y % high < 6) | (along % wide < 6)] = index(mortar)
    return image


def stones(colour: str, mortar: str) -> np.ndarray:
    """Large blocks."""
    return bricks(colour, mortar, 64, 64)


def planks(colour: str, gap: str) -> np.ndarray:
    """Upright boards of 32 units in three tones."""
    board = _X // 32
    image = _tones(canvas(colour), np.array([0, -1, 0, 1])[board])
    image[_X % 32 < 6] = index(gap)
    return image


def boards(colour: str, gap: str) -> np.ndarray:
    """Boards that lie."""
    return planks(colour, gap).T.copy()


def stripes(colour: str, other: str) -> np.ndarray:
    """Upright stripes of 32 units."""
    return np.where((_X // 32) % 2 == 0, index(colour), index(other)).astype(np.uint8)


def bands(colour: str, other: str) -> np.ndarray:
    """A wide band at the height of the eyes."""
    image = canvas(colour)
    image[(_Y > 48) & (_Y < 88)] = index(other)
    image[((_Y > 36) & (_Y < 43)) | ((_Y > 93) & (_Y < 100))] = index(other)
    image[(abs(_X % 64 - 32) + abs(_Y - 68)) < 16] = index(colour)
    return image


def spots(colour: str, other: str) -> np.ndarray:
    """Round spots, staggered."""
    image = canvas(colour)
    for x, y in ((32, 30), (96, 30), (0, 72), (64, 72), (128, 72)):
        image[np.hypot(_X - x, _Y - y) < 13] = index(other)
    return image


def wainscot(colour: str, other: str) -> np.ndarray:
    """Plaster above, panels of wood below."""
    image = canvas(colour)
    low = _Y > 72
    image[low] = index(other)
    inner = (abs(_X % 64 - 32) < 22) & (_Y > 86) & (_Y < 110)
    image[inner] = shifted(index(other), -1)
    image[(_Y > 66) & (_Y <= 74)] = shifted(index(other), 1)
    return image


def panels(colour: str, other: str) -> np.ndarray:
    """A large panel in a frame."""
    edge = np.minimum.reduce([_X, _Y, SIZE - 1 - _X, SIZE - 1 - _Y])
    image = canvas(other)
    image[edge >= 18] = shifted(index(colour), -1)
    image[edge >= 26] = index(colour)
    return image


def discs(colour: str, other: str) -> np.ndarray:
    """One large disc with a rim."""
    image = canvas(colour)
    radius = np.hypot(_X - 63.5, _Y - 60)
    image[radius < 46] = shifted(index(other), -1)
    image[radius < 38] = index(other)
    return image


def diamonds(colour: str, other: str) -> np.ndarray:
    """Upright lozenges, 64 units wide."""
    image = canvas(colour)
    reach = abs(_X % 64 - 31.5) / 26 + abs(_Y - 60) / 46
    image[reach < 1] = index(other)
    image[reach < 0.45] = shifted(index(other), 1)
    return image


def arches(colour: str, other: str) -> np.ndarray:
    """Painted arches, 64 units wide."""
    x = abs(_X % 64 - 31.5)
    image = canvas(colour)
    rim = ((x < 28) & (_Y >= 48)) | (np.hypot(x, _Y - 48) < 28)
    inside = ((x < 20) & (_Y >= 48)) | (np.hypot(x, _Y - 48) < 20)
    image[rim] = shifted(index(other), 1)
    image[inside] = index(other)
    return image


def chevrons(colour: str, other: str) -> np.ndarray:
    """A zigzag of broad bands."""
    fold = abs(_X % 64 - 32)
    return np.where(((_Y + fold) // 24) % 2 == 0, index(colour), index(other)).astype(np.uint8)


def waves(colour: str, other: str) -> np.ndarray:
    """Water below, waves of it above."""
    crest = 14 * np.sin(2 * np.pi * _X / 64)
    image = canvas(colour)
    image[_Y + crest > 70] = index(other)
    image[(_Y + crest > 38) & (_Y + crest < 54)] = index(other)
    return image


def squares(colour: str, other: str) -> np.ndarray:
    """A chessboard of 64 units."""
    return np.where((_X // 64 + _Y // 64) % 2 == 0, index(colour), index(other)).astype(np.uint8)


def slabs(colour: str, other: str) -> np.ndarray:
    """A chessboard of 32 units in near tones, for floors."""
    return np.where((_X // 32 + _Y // 32) % 2 == 0, index(colour), index(other)).astype(np.uint8)


def tiles(colour: str, joint: str) -> np.ndarray:
    """Tiles of 64 units with joints."""
    image = canvas(colour)
    image[(_X % 64 < 7) | (_Y % 64 < 7)] = index(joint)
    return image


def rug(colour: str, other: str) -> np.ndarray:
    """A diamond in each 128 units."""
    image = canvas(colour)
    reach = abs(_X - 63.5) + abs(_Y - 63.5)
    image[reach < 56] = index(other)
    image[reach < 24] = index(colour)
    return image


def herringbone(colour: str, other: str) -> np.ndarray:
    """Diagonal bands, for floors."""
    return np.where(((_X + _Y) // 32) % 2 == 0, index(colour), index(other)).astype(np.uint8)


def blobs(colour: str, other: str) -> np.ndarray:
    """Soft patches, such as grass, gravel or a hedge."""
    rng = np.random.default_rng(sum(map(ord, colour + other)))
    image = canvas(colour)
    for _ in range(26):
        x, y, radius = rng.integers(SIZE), rng.integers(SIZE), rng.integers(7, 14)
        dx, dy = (abs((grid - at + SIZE // 2) % SIZE - SIZE // 2) for grid, at in ((_X, x), (_Y, y)))
        image[dx**2 + dy**2 < radius**2] = index(other)
    return image


def beams(colour: str, other: str) -> np.ndarray:
    """Beams across, for ceilings."""
    return np.where(_Y % 64 < 20, index(other), index(colour)).astype(np.uint8)


def coffers(colour: str, other: str) -> np.ndarray:
    """Sunk squares, for ceilings."""
    return np.where((_X % 64 < 12) | (_Y % 64 < 12), index(other), index(colour)).astype(np.uint8)


def lamps(colour: str, other: str) -> np.ndarray:
    """A round lamp in each 128 units, for ceilings."""
    image = canvas(colour)
    image[np.hypot(_X - 63.5, _Y - 63.5) < 26] = index(other)
    return image


PATTERNS: dict[str, Pattern] = {
    f.__name__: f
    for f in (
        plain, bricks, stones, planks, boards, stripes, bands, spots, wainscot, panels, discs, diamonds, arches,
        chevrons, waves, squares, slabs, tiles, rug, herringbone, blobs, beams, coffers, lamps,
    )
}  # fmt: skip


def draw(paint: str) -> np.ndarray:
    """A texture from its words: ``pattern/colour/other colour``, uint8 (128, 128)."""
    pattern, *words = paint.split("/")
    return PATTERNS[pattern](*words)


def wall(paint: str, trim: str) -> np.ndarray:
    """A wall of that paint with a skirting and a cornice."""
    image = draw(paint)
    image[BASEBOARD:] = index(trim)
    image[:CORNICE] = shifted(index(trim), 1)
    return image


def crate(colour: str, edge: str) -> np.ndarray:
    """The side or the top of a crate: a frame and a diagonal batten."""
    image = canvas(colour)
    x, y = _X % 64, _Y % 64
    image[abs(x - y) < 8] = shifted(index(colour), -1)
    image[np.minimum.reduce([x, y, 63 - x, 63 - y]) < 8] = index(edge)
    return image


def box(colour: str, edge: str) -> np.ndarray:
    """The side of a bed of plants: leaves over a crate."""
    image = crate(colour, edge)
    image[:28] = draw("blobs/green.3/green.4")[:28]
    return image


def flowers() -> np.ndarray:
    """A bed of plants from above."""
    image = draw("blobs/green.3/green.4")
    petals = draw("blobs/green.3/yellow.6") == index("yellow.6")
    image[petals & ((_X + _Y) % 64 < 24)] = index("pink.5")
    return image


def lintel(trim: str) -> np.ndarray:
    """The wall above a doorway, to be laid with its lower edge on the opening."""
    image = np.full((SIZE, SIZE), shifted(index(trim), 1), np.uint8)
    image[-14:] = index(trim)
    return image


def step(trim: str) -> np.ndarray:
    """The front of a step with a light edge above."""
    image = canvas(trim)
    image[:8] = shifted(index(trim), 2)
    return image


def pillar(trim: str) -> np.ndarray:
    """A pillar with foot and capital."""
    image = np.full((SIZE, SIZE), shifted(index(trim), 2), np.uint8)
    image[:16] = image[-16:] = index(trim)
    return image


def sky(top: str, low: str, cloud: str, hill: str) -> np.ndarray:
    """The sky all around: two bands of colour, clouds, hills and one sun, uint8 (128, 1024)."""
    wide = 8 * SIZE
    y, x = np.mgrid[:SIZE, :wide]
    image = np.where(y < 52, index(top), index(low)).astype(np.uint8)
    rng = np.random.default_rng(sum(map(ord, top + low + cloud + hill)))
    for _ in range(13):
        at, over, reach = rng.integers(wide), rng.integers(14, 70), rng.integers(26, 60)
        for part in range(3):
            dx = abs((x - at - (part - 1) * reach + wide // 2) % wide - wide // 2)
            image[(dx / reach) ** 2 + ((y - over) / (9 + 5 * (part == 1))) ** 2 < 1] = index(cloud)
    image[np.hypot(x - 300, y - 34) < 17] = index("yellow.7")
    phase = rng.uniform(0, 2 * np.pi, 2)
    turn = 2 * np.pi * x / wide
    far = 96 - 9 * np.sin(5 * turn + phase[0]) - 6 * np.sin(8 * turn)
    near = 110 - 7 * np.sin(7 * turn + phase[1])
    image[y > far] = shifted(index(hill), 1)
    image[y > near] = index(hill)
    return image


# Pictures on walls, the landmarks.

SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # x and y run from -1 to 1, y down
    "disc": lambda x, y: np.hypot(x, y) < 0.72,
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.56) < 0.24,
    "diamond": lambda x, y: abs(x) + abs(y) < 0.9,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.24) & (np.maximum(abs(x), abs(y)) < 0.84),
    "saltire": lambda x, y: np.minimum(abs(x - y), abs(x + y)) < 0.34,
    "hill": lambda x, y: (y > -0.75 + 1.5 * abs(x)) & (y < 0.75),
    "heart": lambda x, y: (x**2 + (1.15 * y + 0.18 - 0.75 * np.sqrt(abs(x))) ** 2) < 0.55,
    "moon": lambda x, y: (np.hypot(x, y) < 0.78) & (np.hypot(x - 0.38, y + 0.12) > 0.6),
    "star": lambda x, y: np.hypot(x, y) < 0.34 + 0.5 * abs((np.arctan2(x, -y) / (0.2 * np.pi)) % 2 - 1) ** 1.2,
    "bars": lambda x, y: (np.floor((x + 1) * 2.5) % 2 == 0) & (abs(y) < 2),
    "sunset": lambda x, y: (y > 0.35) | (np.hypot(x, y - 0.35) < 0.62),
    "tree": lambda x, y: (np.hypot(x, y + 0.25) < 0.55) | ((abs(x) < 0.16) & (y > 0) & (y < 0.85)),
    "arrow": lambda x, y: ((y < 0) & (y > abs(x) - 0.85) & (y < 0.1)) | ((abs(x) < 0.24) & (y >= -0.1) & (y < 0.8)),
    "quarters": lambda x, y: x * y > 0,
    "house": lambda x, y: ((abs(x) < 0.55) & (y > -0.1) & (y < 0.75)) | ((y <= -0.1) & (y > -0.85 + 0.95 * abs(x))),
    "fish": lambda x, y: ((x + 0.15) ** 2 / 0.42 + y**2 / 0.2 < 1) | ((x > 0.35) & (abs(y) < 1.3 * (x - 0.3))),
}  # fmt: skip
INKS = (
    ("red.3", "grey.14"), ("blue.2", "soft amber.7"), ("green.3", "soft yellow.7"), ("yellow.6", "soft blue.1"),
    ("grey.1", "amber.6"), ("purple.3", "soft lime.7"), ("orange.4", "soft sky.1"), ("sky.6", "soft red.2"),
    ("grey.14", "teal.3"), ("pink.5", "soft violet.1"),
)  # fmt: skip
"""Colours of a picture's shape and of its ground."""
FRAMES = ("soft amber.1", "grey.1", "amber.5", "grey.13")
PICTURES = len(SHAPES) * len(INKS)
PICTURE_TOP, PICTURE_BOTTOM, PICTURE_SIDE = 20, 98, 22


def with_picture(image: np.ndarray, number: int) -> np.ndarray:
    """A wall with a framed picture at the height of the eyes.

    Args:
        image: the wall, uint8 (128, 128).
        number: of the picture, below ``PICTURES``; each has another shape or colours.
    """
    shape = list(SHAPES.values())[number % len(SHAPES)]
    ink, ground = INKS[number // len(SHAPES)]
    x = (_X - 63.5) / ((SIZE - 2 * PICTURE_SIDE - 20) / 2)
    y = (_Y - (PICTURE_TOP + PICTURE_BOTTOM - 1) / 2) / ((PICTURE_BOTTOM - PICTURE_TOP - 20) / 2)
    out = image.copy()
    inside = (_X >= PICTURE_SIDE) & (_X < SIZE - PICTURE_SIDE) & (_Y >= PICTURE_TOP) & (_Y < PICTURE_BOTTOM)
    out[inside] = index(FRAMES[(number * 7 + number // len(SHAPES)) % len(FRAMES)])
    inner = (abs(x) <= 1) & (abs(y) <= 1)
    out[inner] = index(ground)
    out[inner & shape(x, y)] = index(ink)
    assert TRANSPARENT not in out
    return out
