"""Where things are in a picture of the Hands world, from its pixels alone.

``Eye`` is what policies, environments and the player ask. ``ColourEye`` learns the colours of a scene from its
start picture, as the scene says what stands where in it: a later pixel belongs to what had its colour then.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from torch import Tensor

from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import (
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT,
    CAMERA_POSITION,
    CUP_HEIGHT,
    THINGS,
)
from worldcompass.worlds.hands.silhouettes import SIZE, silhouettes, start_poses
from worldcompass.worlds.hands.splits import Scene
from worldcompass.worlds.hands.view import projection

MIDDLE_HEIGHT = (CUP_HEIGHT / 2, BALL_RADIUS, BLOCK_HALF, BOTTLE_HEIGHT / 2)
"""Of each standing thing's middle above the table, metres."""
FEWEST_PIXELS = 4  # of a thing that is seen
GAP = 5  # pixels: patches of a thing that are nearer than this are one, as white bands divide it
LEVELS = 32  # of each colour channel
BLUR = 1.5  # levels
LEAST = 1e-4  # blurred count from which a colour is known
NAMED = 3.0  # pixels' worth of belief in the named colour of a thing, in each of ``SHADES``
SHADES = np.linspace(0.6, 1.1, 8)  # brightness of a thing's sides, as a factor of its named colour


class Eye(Protocol):
    """Finds the things of one scene in pictures."""

    def __call__(self, frames_N3hw: Tensor) -> np.ndarray:
        """Pixel (column, row) of the middle of cup, ball, block and bottle, float64 (N, 4, 2); NaN where not seen.

        Args:
            frames_N3hw: uint8 sRGB (N, 3, 64, 64).
        """
        ...


class ColourEye:
    """Implements ``Eye``.

    Args:
        scene: what stands where in the start picture.
        start_3hw: uint8 sRGB.
    """

    def __init__(self, scene: Scene, start_3hw: Tensor) -> None:
        shown = silhouettes(np.array(scene.gripper), start_poses(scene)).ravel()
        codes = _codes(_channels_last(start_3hw)).ravel()
        hues = looks.HUES | looks.UNSEEN_HUES
        self._kinds = [THINGS.index(thing.kind) for thing in scene.things]
        counts_KC = np.zeros((len(THINGS), LEVELS**3))
        for thing, kind in zip(scene.things, self._kinds, strict=True):
            named = 255 * SHADES[:, None] * np.array(looks.rgb(hues[thing.colour]))
            counts_KC[kind] += NAMED * _count(_codes(named.clip(0, 255))) + _count(codes[shown == kind])
        own_KC = np.stack([_blurred(counts) for counts in counts_KC])
        around_C = _blurred(_count(codes[shown < 0]))
        most = own_KC.max(0)
        known = (most > LEAST) & (most > around_C + own_KC.sum(0) - most)
        self._owner_C = np.where(known, own_KC.argmax(0), -1)

    def __call__(self, frames_N3hw: Tensor) -> np.ndarray:
        """See ``Eye``."""
        found = np.full((len(frames_N3hw), len(THINGS), 2), np.nan)
        for row, frame in enumerate(frames_N3hw):
            owner = self._owner_C[_codes(_channels_last(frame))]
            for kind in self._kinds:
                found[row, kind] = _middle(owner == kind)
        return found


def _channels_last(frame_3hw: Tensor) -> np.ndarray:
    return frame_3hw.movedim(0, -1).cpu().numpy()


def _codes(colours: np.ndarray) -> np.ndarray:
    """The cell of each colour (..., 3) in a histogram."""
    levels = colours.astype(np.int64) * LEVELS // 256
    return (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]


def _count(codes: np.ndarray) -> np.ndarray:
    return np.bincount(codes, minlength=LEVELS**3).astype(float)


def _blurred(counts_C: np.ndarray) -> np.ndarray:
    """A histogram spread over neighbouring colours: other light and an autoencoder shift a colour a little."""
    reach = int(3 * BLUR)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / BLUR) ** 2)
    cube = counts_C.reshape(LEVELS, LEVELS, LEVELS)
    for _ in range(3):  # one axis of colour after the other
        flat = cv2.filter2D(cube.reshape(LEVELS, -1), -1, bell[:, None] / bell.sum(), borderType=0)
        cube = np.moveaxis(flat.reshape(LEVELS, LEVELS, LEVELS), 0, -1).copy()
    return cube.ravel()


def _middle(mask_hw: np.ndarray) -> np.ndarray:
    """The middle of the largest patch; NaN when it has too few pixels."""
    closed = cv2.dilate(mask_hw.astype(np.uint8), np.ones((GAP, GAP), np.uint8))
    _, patches = cv2.connectedComponents(closed)
    sizes = np.bincount(patches[mask_hw], minlength=2)[1:]
    if sizes.max() < FEWEST_PIXELS:
        return np.full(2, np.nan)
    rows, columns = np.nonzero(mask_hw & (patches == 1 + sizes.argmax()))
    return np.array([columns.mean(), rows.mean()])


_RAYS = np.linalg.inv(projection(SIZE))


def on_table(pixel_2: np.ndarray, kind: str) -> np.ndarray:
    """Where a thing of a kind stands, x and y in metres, if it stands on the table; NaN where it is not seen."""
    column, row = pixel_2
    ray = _RAYS @ np.array([column, SIZE - 1 - row, 1.0])
    height = MIDDLE_HEIGHT[THINGS.index(kind)]
    reach = (height - CAMERA_POSITION[2]) / ray[2]
    return np.array(CAMERA_POSITION[:2]) + reach * ray[:2]
