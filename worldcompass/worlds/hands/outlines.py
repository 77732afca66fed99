"""Outlines of things and of the gripper's parts, from where they truly are: what networks learn to see."""

from __future__ import annotations

import cv2
import numpy as np

from worldcompass.worlds.hands.facts import ABSENT_POSE, THINGS
from worldcompass.worlds.hands.silhouettes import SIZE, gripper_bodies, rotation
from worldcompass.worlds.hands.view import arm, casters, project

GRIPPER = ("palm", "left", "right")
PARTS = (*THINGS, *GRIPPER)
OVERSAMPLING = 4  # points across a pixel
_BITS = 4  # of a point's fraction


def outlines(grip_4: np.ndarray, poses_T7: np.ndarray) -> np.ndarray:
    """How much of each pixel each of ``PARTS`` covers, uint8 (7, 64, 64) with 255 for all of it.

    Parts are shown whole, also where they are hidden. They are unions of convex hulls. The palm is without its arm.

    Args:
        grip_4: x, y, z of the point between the finger tips, and the opening; metres.
        poses_T7: position and quaternion of the things; absent ones are at ``facts.ABSENT_POSE``.
    """
    places = gripper_bodies(grip_4)
    shown = np.zeros((len(PARTS), SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), np.uint8)
    for name, points in casters():
        if name in places:
            _fill(shown[_plane(name)], points + places[name])
        elif (pose := poses_T7[_plane(name)])[2] > ABSENT_POSE[2]:
            _fill(shown[_plane(name)], points @ rotation(pose[3:]).T + pose[:3])
    return np.stack([cv2.resize(plane, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for plane in shown])


def arm_outline(grip_4: np.ndarray) -> np.ndarray:
    """How much of each pixel the arm covers, as above; uint8 (64, 64)."""
    shown = np.zeros((SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), np.uint8)
    for points in arm():
        _fill(shown, points + gripper_bodies(grip_4)["gripper"])
    return cv2.resize(shown, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _plane(caster: str) -> int:
    return PARTS.index("palm" if caster == "gripper" else caster)


def _fill(shown: np.ndarray, points_N3: np.ndarray) -> None:
    corners = (project(points_N3) + 0.5) * OVERSAMPLING - 0.5
    hull = cv2.convexHull(np.round(corners * 2**_BITS).astype(np.int32))
    cv2.fillConvexPoly(shown, hull, 255, cv2.LINE_8, _BITS)
