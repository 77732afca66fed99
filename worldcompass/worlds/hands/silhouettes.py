"""What covers which pixel, from poses alone: the outlines of things and gripper as the fixed camera sees them."""

from __future__ import annotations

import cv2
import numpy as np

from worldcompass.worlds.hands.facts import ABSENT_POSE, FINGER_HALF, REST_HEIGHT, THINGS
from worldcompass.worlds.hands.splits import Scene, yaw_quaternion
from worldcompass.worlds.hands.view import casters, project

SIZE = 64
NOTHING, GRIPPER = -1, -2
_BITS = 4  # of a pixel's fraction


def start_poses(scene: Scene) -> np.ndarray:
    """Position and quaternion (w, x, y, z) of a scene's things at its start, float64 (4, 7).

    Those that it does not have are at ``facts.ABSENT_POSE``.
    """
    poses = np.tile(ABSENT_POSE, (len(THINGS), 1))
    for thing in scene.things:
        index = THINGS.index(thing.kind)
        poses[index] = thing.x, thing.y, REST_HEIGHT[index], *yaw_quaternion(thing.yaw_deg)
    return poses


def silhouettes(grip_4: np.ndarray, poses_T7: np.ndarray) -> np.ndarray:
    """What each pixel shows: an index of ``facts.THINGS``, ``GRIPPER`` or ``NOTHING``; int32 (64, 64).

    Outlines are convex hulls, painted from the farthest to the nearest.

    Args:
        grip_4: x, y, z of the point between the finger tips, and the opening; metres.
        poses_T7: see ``start_poses``.
    """
    gripper = gripper_bodies(grip_4)
    parts: list[tuple[np.ndarray, int]] = []
    for name, points in casters():
        if name in gripper:
            parts.append((points + gripper[name], GRIPPER))
        elif (pose := poses_T7[THINGS.index(name)])[2] > ABSENT_POSE[2]:
            parts.append((points @ rotation(pose[3:]).T + pose[:3], THINGS.index(name)))
    shown = np.full((SIZE, SIZE), NOTHING, np.int32)
    for points, value in sorted(parts, key=lambda part: -part[0][:, 1].mean()):
        corners = np.round(project(points) * 2**_BITS).astype(np.int32)
        cv2.fillConvexPoly(shown, cv2.convexHull(corners), value, cv2.LINE_8, _BITS)
    return shown


def gripper_bodies(grip_4: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Where the gripper's bodies are, metres."""
    x, y, z, opening = (float(value) for value in grip_4)
    aside, middle = opening / 2 + FINGER_HALF[0], z + FINGER_HALF[2]
    return {"gripper": (x, y, z), "left": (x - aside, y, middle), "right": (x + aside, y, middle)}


def rotation(quaternion_4: np.ndarray) -> np.ndarray:
    """The 3 x 3 matrix of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion_4
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
