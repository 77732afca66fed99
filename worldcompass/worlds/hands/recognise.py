"""Is a picture a scene of the Hands world? The rim of its table stands in the same place in every one."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.worlds.hands import looks
from worldcompass.worlds.hands.facts import TABLE_HALF
from worldcompass.worlds.hands.silhouettes import SIZE
from worldcompass.worlds.hands.view import project, table_mask

RIM = 0.028  # metres of the rim's width that are looked at; a little is left out, as pixels mix
SIDES_SHOWN = 3  # of the four, as things or the gripper may hide one
NEAR = 0.1  # of 1: a pixel's colour from that of a rim at some brightness
MOST = 0.6  # of a side's pixels must have its colour
SHADES = (0.4, 1.3)  # of a rim: darkest and brightest, as factors
APART = 0.12  # of 1: the table's colour from its rim's at any brightness, at least


def is_scene(image_3hw: Tensor) -> bool:
    """Whether a uint8 picture of 64 x 64 pixels shows a table of this world, seen by its camera."""
    picture = image_3hw.movedim(0, -1).cpu().numpy().astype(float) / 255
    table = np.median(picture[table_mask(SIZE)[::-1]], 0)
    sides = [picture[side] for side in _sides()]
    for name in looks.RIMS:
        rim = np.array(looks.rgb(name))
        apart = np.linalg.norm(table - np.clip(table @ rim / (rim @ rim), *SHADES) * rim)
        if apart > APART and sum(_shows(side, rim) for side in sides) >= SIDES_SHOWN:
            return True
    return False


def _shows(pixels_N3: np.ndarray, rim_3: np.ndarray) -> bool:
    """Whether most pixels have a rim's colour, at any brightness of a rim."""
    factor_N = np.clip(pixels_N3 @ rim_3 / (rim_3 @ rim_3), *SHADES)
    near_N = np.linalg.norm(pixels_N3 - factor_N[:, None] * rim_3, axis=1) < NEAR
    return bool(near_N.mean() >= MOST)


def check_scene(image_3hw: Tensor) -> None:
    """Refuse a picture that is no scene of this world.

    Raises:
        UserError: says so, and what to use instead.
    """
    if not is_scene(image_3hw):
        raise UserError(
            "this picture is no scene of the Hands world: expected its table with a rim, seen by its camera; use a"
            " scene of the package, or a frame of its engine or its videos"
        )


def _sides() -> list[np.ndarray]:
    """Pixels of each side's rim, bool (64, 64): right, left, far and near."""
    (x, y), width = TABLE_HALF, RIM
    corners = (
        [(x, -y), (x + width, -y), (x + width, y), (x, y)],
        [(-x, -y), (-x - width, -y), (-x - width, y), (-x, y)],
        [(-x, y), (-x, y + width), (x, y + width), (x, y)],
        [(-x, -y), (-x, -y - width), (x, -y - width), (x, -y)],
    )
    masks = []
    for places in corners:
        mask = np.zeros((SIZE, SIZE), np.uint8)
        pixels = project(np.array([(*place, 0.012) for place in places]))
        cv2.fillConvexPoly(mask, np.round(pixels).astype(np.int32), 1)
        masks.append(mask.astype(bool))
    return masks
