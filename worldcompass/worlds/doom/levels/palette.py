"""The 256 colours of a level: ramps of equal hue from dark to light.

The engine draws with a palette and darkens along it. Ramps keep the hue of a surface in every light, which Doom's
own palette does not. Colours are made in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/).

Index 0 is transparent. A colour has a name such as ``teal.5`` or ``soft teal.5``: hue and lightness from 0 (dark)
to 7 (light). ``grey.0`` to ``grey.14`` are finer.
"""

from __future__ import annotations

from functools import cache

import numpy as np

HUES = {
    "red": 25, "orange": 48, "amber": 72, "yellow": 98, "lime": 122, "green": 145, "emerald": 165, "teal": 190,
    "cyan": 215, "sky": 240, "blue": 262, "violet": 290, "purple": 315, "pink": 345, "rose": 5,
}  # fmt: skip
"""OKLab hue of each ramp, degrees."""
CHROMA = {"": 0.15, "soft ": 0.055}
LIGHTNESS = np.linspace(0.30, 0.94, 8)
GREYS = 16
LEVELS = 8
SHADES = 32  # light levels of the engine's colour map
TRANSPARENT = 0


@cache
def colours() -> np.ndarray:
    """The palette, uint8 sRGB (256, 3)."""
    greys = [_srgb(lightness, 0, 0) for lightness in np.linspace(0.0, 1.0, GREYS)]
    ramps = [
        _srgb(float(lightness), chroma, hue)
        for chroma in CHROMA.values()
        for hue in HUES.values()
        for lightness in LIGHTNESS
    ]
    return np.round(255 * np.array(greys + ramps)).astype(np.uint8)


@cache
def index(name: str) -> int:
    """The palette's index of a colour's name; a lightness outside of the ramp is its end."""
    ramp, _, level = name.rpartition(".")
    if ramp == "grey":
        return 1 + min(max(int(level), 0), GREYS - 2)
    soft = ramp.startswith("soft ")
    row = list(HUES).index(ramp.removeprefix("soft ")) + (len(HUES) if soft else 0)
    return GREYS + LEVELS * row + min(max(int(level), 0), LEVELS - 1)


def shifted(colour: int, steps: int) -> int:
    """A colour some steps lighter (or darker, below 0) on its ramp."""
    if colour < GREYS:
        return min(max(colour + 2 * steps, 1), GREYS - 1)
    ramp, level = divmod(colour - GREYS, LEVELS)
    return GREYS + LEVELS * ramp + min(max(level + steps, 0), LEVELS - 1)


@cache
def playpal() -> bytes:
    """The lump PLAYPAL: the palette 14 times, as the engine wants one for each flash of the screen."""
    return colours().tobytes() * 14


@cache
def colormap() -> bytes:
    """The lump COLORMAP: the nearest colour of every colour in every light, from light to dark."""
    rgb = colours().astype(float)
    shades = [_nearest(rgb * (1 - shade / SHADES)) for shade in range(SHADES)]
    grey = np.repeat(rgb.mean(-1, keepdims=True), 3, -1)
    return b"".join(row.tobytes() for row in (*shades, _nearest(255 - grey), _nearest(0 * rgb)))


def _nearest(rgb_N3: np.ndarray) -> np.ndarray:
    distance = ((rgb_N3[:, None] - colours()[None, 1:].astype(float)) ** 2).sum(-1)
    return (1 + distance.argmin(-1)).astype(np.uint8)


def _srgb(lightness: float, chroma: float, hue_deg: float) -> np.ndarray:
    """sRGB from 0 to 1 of an OKLab colour, its chroma lowered until it can be shown."""
    hue = np.deg2rad(hue_deg)
    for strength in np.linspace(chroma, 0, 31):
        a, b = strength * np.cos(hue), strength * np.sin(hue)
        cone = np.array(
            [
                lightness + 0.3963377774 * a + 0.2158037573 * b,
                lightness - 0.1055613458 * a - 0.0638541728 * b,
                lightness - 0.0894841775 * a - 1.2914855480 * b,
            ]
        )
        linear = _FROM_CONES @ cone**3
        if (linear >= -1e-6).all() and (linear <= 1 + 1e-6).all():
            break
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_FROM_CONES = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
