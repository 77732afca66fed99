"""The fixed camera, and the soft shadows that tell height and contact at 64 x 64 pixels.

MuJoCo's own shadow maps are slow and blotchy at this size. Here the outline of each part is thrown along the sun
onto the table, blurred, and paler the higher the part. Only pixels that show the bare table are darkened.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from worldcompass.worlds.hands.facts import (
    BALL_RADIUS,
    BLOCK_HALF,
    BOTTLE_HEIGHT,
    BOTTLE_RADIUS,
    CAMERA_FOVY_DEG,
    CAMERA_POSITION,
    CAMERA_TARGET,
    CUP_HEIGHT,
    CUP_RADIUS,
    FINGER_HALF,
    HANDLE_REACH,
    PALM_HALF,
    TABLE_HALF,
)

SUN = (0.20, -0.10)  # how far the shadow of a point moves in x and y per metre of its height
DARKNESS = 150  # of 255, where a shadow touches what throws it
FADE_HEIGHT = 0.40  # at which a shadow would be gone
PALEST = 0.35  # share of the darkness that a shadow keeps
SUBPIXEL_BITS = 4
ARM_FOOT, ARM_RADIUS, ARM_HALF = (0.036, 0.022, 0.016), 0.018, 0.4  # drawn above the palm, metres


def camera_position() -> np.ndarray:
    """Where the camera stands, metres."""
    return np.array(CAMERA_POSITION)


def camera_axes() -> np.ndarray:
    """The camera's right, up and backward, float64 (3, 3) in rows."""
    ahead = np.array(CAMERA_TARGET) - camera_position()
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, ahead), -ahead])


def projection(size: int) -> np.ndarray:
    """3 x 3 matrix from a point minus ``camera_position`` to homogeneous pixels (column, row from the bottom)."""
    focal = 0.5 * size / math.tan(math.radians(CAMERA_FOVY_DEG) / 2)
    middle = size / 2 - 0.5
    return np.array([[focal, 0, -middle], [0, focal, -middle], [0, 0, -1]]) @ camera_axes()


def project(points_N3: np.ndarray, size: int = 64) -> np.ndarray:
    """Pixels (column, row from the top) at which points of the world are seen, float64 (N, 2)."""
    across, up, depth = projection(size) @ (np.asarray(points_N3, float) - camera_position()).T
    return np.stack([across / depth, size - 1 - up / depth], -1)


def table_mask(size: int) -> np.ndarray:
    """Which pixels look at the table's top when nothing stands on it, bool (size, size), rows from the bottom."""
    to_table = projection(size) @ np.array(
        [[1, 0, -CAMERA_POSITION[0]], [0, 1, -CAMERA_POSITION[1]], [0, 0, -CAMERA_POSITION[2]]]
    )
    row, column = np.mgrid[:size, :size]
    x, y, scale = np.moveaxis(
        np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(to_table).T, -1, 0
    )
    return (np.abs(x / scale) < TABLE_HALF[0]) & (np.abs(y / scale) < TABLE_HALF[1])


def casters() -> list[tuple[str, np.ndarray]]:
    """Bodies and the points in their own frames whose hull throws a shadow."""
    palm_z = 2 * FINGER_HALF[2] + PALM_HALF[2]
    handle = [
        (0, 0.018),
        (0, 0.114),
        (0.032, 0.105),
        (HANDLE_REACH, 0.085),
        (HANDLE_REACH, 0.05),
        (0.032, 0.025),
    ]
    bottle = [*_ring(BOTTLE_RADIUS, 0), *_ring(BOTTLE_RADIUS, 0.085), *_ring(0.016, BOTTLE_HEIGHT)]
    parts: list[tuple[str, list]] = [
        ("gripper", _box((0, 0, palm_z), PALM_HALF)),
        ("left", _box((0, 0, 0), FINGER_HALF)),
        ("right", _box((0, 0, 0), FINGER_HALF)),
        ("cup", [*_ring(CUP_RADIUS * 0.92, 0), *_ring(CUP_RADIUS * 1.03, CUP_HEIGHT)]),
        ("cup", [(CUP_RADIUS + x, side, z) for x, z in handle for side in (-0.010, 0.010)]),
        ("ball", [p for a in (-1.2, -0.6, 0, 0.6, 1.2) for p in _parallel(a)]),
        ("block", _box((0, 0, 0), (BLOCK_HALF,) * 3)),
        ("bottle", bottle),
    ]
    return [(name, np.array(points, float)) for name, points in parts]


def arm() -> list[np.ndarray]:
    """Points of the arm's two parts about the gripper's own origin; it throws no shadow."""
    foot = 2 * FINGER_HALF[2] + PALM_HALF[2] + 0.02
    pole = [*_ring(ARM_RADIUS, foot), *_ring(ARM_RADIUS, foot + 2 * ARM_HALF)]
    return [np.array(points, float) for points in (_box((0, 0, foot), ARM_FOOT), pole)]


def _box(centre: tuple, half: tuple) -> list:
    signs = (-1, 1)
    return [
        [centre[0] + i * half[0], centre[1] + j * half[1], centre[2] + k * half[2]]
        for i in signs for j in signs for k in signs
    ]  # fmt: skip


def _ring(radius: float, z: float, points: int = 12) -> list:
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(radius * math.cos(a), radius * math.sin(a), z) for a in angles]


def _parallel(latitude: float) -> list:
    return _ring(BALL_RADIUS * math.cos(latitude), BALL_RADIUS * math.sin(latitude), 10)


class Shadows:
    """Darkens a drawn picture where parts throw shadows on the table.

    ``body_ids`` says which row of the body arrays each name has.
    """

    def __init__(self, size: int, blur: int, body_ids: dict[str, int]) -> None:
        parts = casters()
        self._names = [name for name, _ in parts]
        self._points = np.concatenate([points for _, points in parts])
        self._bodies = np.concatenate([np.full(len(points), body_ids[name]) for name, points in parts])
        self._ends = np.cumsum([len(points) for _, points in parts])
        self._projection, self._camera = projection(size), camera_position()[:, None]
        self._blur = (blur, blur)
        self._mask = np.zeros((size, size), np.uint8)

    def darken(
        self,
        picture: np.ndarray,
        bare: np.ndarray,
        positions: np.ndarray,
        rotations: np.ndarray,
        absent: frozenset[str],
    ) -> np.ndarray:
        """The picture with shadows, rows from the bottom; ``bare`` marks the pixels that show the bare table."""
        points = np.einsum("nij,nj->ni", rotations[self._bodies], self._points) + positions[self._bodies]
        height = np.maximum(points[:, 2], 0)
        feet = np.stack(
            [points[:, 0] + SUN[0] * height, points[:, 1] + SUN[1] * height, np.zeros_like(height)]
        )
        across, up, depth = self._projection @ (feet - self._camera)
        pixels = np.round(np.stack([across / depth, up / depth], -1) * 2**SUBPIXEL_BITS).astype(np.int32)
        self._mask[:] = 0
        for shade, start, end in sorted(self._outlines(height, absent)):
            hull = cv2.convexHull(pixels[start:end])
            cv2.fillConvexPoly(self._mask, hull, shade, cv2.LINE_AA, SUBPIXEL_BITS)
        shadow = cv2.blur(self._mask, self._blur)
        shadow *= bare
        return cv2.multiply(picture, cv2.merge([255 - shadow] * 3), scale=1 / 255)

    def _outlines(self, height: np.ndarray, absent: frozenset[str]) -> list[tuple[int, int, int]]:
        """Shade and the rows of the points of each part that is there; dark ones are painted last."""
        found, start = [], 0
        for name, end in zip(self._names, self._ends.tolist(), strict=True):
            if name not in absent:
                nearest = float(height[start:end].min())
                found.append((int(DARKNESS * max(PALEST, 1 - nearest / FADE_HEIGHT)), start, end))
            start = end
        return found
