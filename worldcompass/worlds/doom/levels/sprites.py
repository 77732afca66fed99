"""Things that stand about and items, drawn by code: arrays of palette indices with the feet at the bottom.

They replace the sprites of actors that the engine knows, so that collisions are the game's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldcompass.worlds.doom.levels.palette import TRANSPARENT, index, shifted


def _grid(wide: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An empty sprite, x from -1 to 1, y in units above the feet."""
    y, x = np.mgrid[:high, :wide]
    return np.full((high, wide), TRANSPARENT, np.uint8), (x + 0.5) / wide * 2 - 1, high - 0.5 - y


def _paint(image: np.ndarray, mask: np.ndarray, x: np.ndarray, colour: str) -> None:
    """Fill a mask, lighter to the left and darker to the right, as something round."""
    base = index(colour)
    image[mask] = base
    image[mask & (x < -0.45)] = shifted(base, 1)
    image[mask & (x > 0.45)] = shifted(base, -1)


def column() -> np.ndarray:
    """A column with foot and capital."""
    image, x, y = _grid(44, 112)
    _paint(image, (abs(x) < 0.62) & (y > 10) & (y < 100), x, "grey.12")
    _paint(image, (y <= 14) | (y >= 98), x, "grey.9")
    return image


def lamp() -> np.ndarray:
    """A bright ball on a post."""
    image, x, y = _grid(36, 84)
    _paint(image, (abs(x) < 0.28) & (y < 56), x, "grey.3")
    _paint(image, (abs(x) < 0.75) & (y < 8), x, "grey.3")
    _paint(image, np.hypot(x, (y - 64) / 18) < 0.98, x, "yellow.6")
    return image


def plant() -> np.ndarray:
    """A round bush in a pot."""
    image, x, y = _grid(48, 68)
    _paint(image, (abs(x) < 0.4 + y / 120) & (y < 26), x, "orange.3")
    _paint(image, np.hypot(x, (y - 44) / 24) < 0.98, x, "green.3")
    return image


def barrel() -> np.ndarray:
    """A barrel with two hoops."""
    image, x, y = _grid(44, 48)
    body = abs(x) < 0.98 - 0.16 * ((y - 24) / 24) ** 2
    _paint(image, body, x, "orange.4")
    _paint(image, body & (((y > 8) & (y < 15)) | ((y > 33) & (y < 40))), x, "grey.4")
    return image


def tree() -> np.ndarray:
    """A tree with a round crown."""
    image, x, y = _grid(120, 150)
    _paint(image, (abs(x) < 0.14) & (y < 80), x * 4, "soft orange.2")
    crown = (np.hypot(x / 0.98, (y - 100) / 50) < 1) | (np.hypot((x - 0.3) / 0.6, (y - 80) / 34) < 1)
    _paint(image, crown, x + (100 - y) / 90, "green.3")
    return image


def cypress() -> np.ndarray:
    """A slim tree."""
    image, x, y = _grid(56, 136)
    _paint(image, (abs(x) < 0.2) & (y < 20), x, "soft orange.2")
    _paint(image, (abs(x) < 0.95 * np.sqrt(np.clip((134 - y) / 90, 0, 1))) & (y > 12), x, "emerald.2")
    return image


def urn() -> np.ndarray:
    """A blue vase on a foot."""
    image, x, y = _grid(40, 60)
    _paint(image, (abs(x) < 0.6) & (y < 10), x, "grey.13")
    _paint(image, np.hypot(x, (y - 32) / 24) < 0.98, x, "blue.3")
    _paint(image, (abs(x) < 0.5) & (y >= 48), x, "grey.13")
    return image


def statue() -> np.ndarray:
    """A figure on a plinth."""
    image, x, y = _grid(44, 104)
    _paint(image, y < 34, x, "grey.6")
    _paint(image, (abs(x) < 0.7 - (y - 34) / 140) & (y >= 34) & (y < 80), x, "grey.13")
    _paint(image, np.hypot(x / 0.5, (y - 90) / 13) < 1, x * 2, "grey.13")
    return image


def armour() -> np.ndarray:
    """A green vest."""
    image, x, y = _grid(36, 22)
    _paint(image, (abs(x) < 0.62) | (y > 12), x, "green.4")
    image[(abs(x) < 0.3) & (y > 16)] = TRANSPARENT
    image[(abs(x) < 0.14) & (y < 16)] = index("green.6")
    return image


def medikit() -> np.ndarray:
    """A white box with a red cross."""
    image, x, y = _grid(32, 22)
    _paint(image, y > 0, x, "grey.13")
    image[((abs(x) < 0.18) & (abs(y - 11) < 8)) | ((abs(x) < 0.5) & (abs(y - 11) < 3))] = index("red.3")
    return image


def flask() -> np.ndarray:
    """A blue bottle."""
    image, x, y = _grid(18, 24)
    _paint(image, np.hypot(x, (y - 9) / 9) < 0.98, x, "blue.4")
    _paint(image, (abs(x) < 0.36) & (y > 14), x, "sky.6")
    return image


@dataclass(frozen=True)
class Kind:
    """A kind of thing that stands about."""

    editor_number: int
    """Of the engine's actor."""
    frames: tuple[str, ...]
    """Names of the sprites that it replaces."""
    draw: Callable[[], np.ndarray]
    radius: int
    """Of the actor's box, map units."""
    outdoor: bool
    indoor: bool = True


KINDS = {
    "column": Kind(30, ("COL1A0",), column, 16, True),
    "lamp": Kind(2028, ("COLUA0",), lamp, 16, True),
    "plant": Kind(31, ("COL2A0",), plant, 16, True),
    "urn": Kind(33, ("COL4A0",), urn, 16, False),
    "statue": Kind(32, ("COL3A0",), statue, 16, True),
    "barrel": Kind(2035, ("BAR1A0", "BAR1B0"), barrel, 10, True),
    "cypress": Kind(43, ("TRE1A0",), cypress, 16, True, indoor=False),
    "tree": Kind(54, ("TRE2A0",), tree, 32, True, indoor=False),
}
ITEMS = {("ARM1A0", "ARM1B0"): armour, ("MEDIA0",): medikit, ("BON1A0", "BON1B0", "BON1C0", "BON1D0"): flask}


def all_sprites() -> dict[str, np.ndarray]:
    """Every sprite of a level by the name of its lump."""
    kinds = {frame: kind.draw() for kind in KINDS.values() for frame in kind.frames}
    return kinds | {frame: draw() for frames, draw in ITEMS.items() for frame in frames}
