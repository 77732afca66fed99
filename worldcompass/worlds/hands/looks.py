"""Colours and table patterns, as data: which are trained on, and which are kept unseen."""

from __future__ import annotations

import numpy as np

PATTERN_SIZE = 128  # pixels of a pattern's side

HUES = {
    "red": "e0342f", "blue": "2b78e4", "green": "27a65a", "yellow": "f4c20d",
    "purple": "8d4ad6", "cyan": "1fc1cf", "pink": "f26fb0", "navy": "26348c",
}  # fmt: skip
"""Colours of things in training, by the names that instructions use."""
UNSEEN_HUES = {"lime": "a3d60f", "brown": "7d4a22", "black": "35363d", "maroon": "8c1d4f"}

TINTS = ("f6dcae", "efe6d2", "c9e2f4", "cdebc9", "f8d3c6", "e2d4f4")
UNSEEN_TINTS = ("d9d9dc", "f3efa6", "b9e6dc")
WALLS = ("bcd9ea", "d9cfe8", "f0dcc8", "cfe6d4", "e8d5d8", "d5dde6")
UNSEEN_WALLS = ("e9e7b8", "c4c9d6")
RIMS = ("8a5a3a", "6b7a8f", "b98a5a", "5a6b5f", "7d5d72")

WHITE = (0.97, 0.95, 0.90)


def rgb(hexadecimal: str) -> tuple[float, float, float]:
    """Red, green and blue in 0..1."""
    red, green, blue = (int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def pattern(name: str) -> np.ndarray:
    """A grey table pattern, uint8 (128, 128); the table's tint colours it."""
    y, x = np.mgrid[:PATTERN_SIZE, :PATTERN_SIZE] / PATTERN_SIZE
    return (np.clip((PATTERNS | UNSEEN_PATTERNS)[name](x, y), 0, 1) * 255).astype(np.uint8)


def _plain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.full_like(x, 0.97)


def _checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1 - 0.20 * ((np.floor(x * 8) + np.floor(y * 6)) % 2)


def _planks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    row = np.floor(y * 7).astype(int) % 7
    seam = np.abs(y * 7 - np.round(y * 7)) < 0.07
    return 0.98 - np.array([0.0, 0.13, 0.04, 0.18, 0.08, 0.15, 0.02])[row] - 0.16 * seam


def _gingham(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1 - 0.12 * (((x * 7) % 1 < 0.5).astype(float) + ((y * 6) % 1 < 0.5))


def _tiles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    tone = (np.floor(x * 6) * 3 + np.floor(y * 5) * 5) % 7 / 7
    u, v = (x * 6) % 1, (y * 5) % 1
    seam = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) < 0.07
    return 0.98 - 0.10 * tone - 0.22 * seam


def _rug(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    edge = np.minimum(np.minimum(x, 1 - x) * 0.74, np.minimum(y, 1 - y) * 0.6)
    middle = np.abs(x - 0.5) * 0.74 + np.abs(y - 0.5) * 0.6 < 0.13
    return 0.97 - 0.20 * ((edge > 0.05) & (edge < 0.075)) - 0.14 * (edge > 0.105) + 0.14 * middle


def _stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1 - 0.18 * ((x * 6 + y * 5) % 1 < 0.5)


def _rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.hypot((x - 0.5) * 0.70, (y - 0.5) * 0.54)
    return 0.98 - 0.18 * ((radius * 16) % 1 < 0.35)


PATTERNS = {
    "plain": _plain,
    "checks": _checks,
    "planks": _planks,
    "gingham": _gingham,
    "tiles": _tiles,
    "rug": _rug,
}
UNSEEN_PATTERNS = {"stripes": _stripes, "rings": _rings}
