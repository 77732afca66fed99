"""Shadows on the table, as the engine paints them: each part's outline, thrown along the sun and blurred."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE, REST_HEIGHT, THINGS
from worldcompass.worlds.hands.network.camera import shaded_at
from worldcompass.worlds.hands.network.gripper import SCENE
from worldcompass.worlds.hands.network.layers import Where, moved
from worldcompass.worlds.hands.network.places import BELOW, places_of
from worldcompass.worlds.hands.network.state import State, numbers_of
from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.hands.silhouettes import gripper_bodies
from worldcompass.worlds.hands.view import DARKNESS, FADE_HEIGHT, PALEST, casters, project, table_mask

SIDE = 2 * FRAME_SIZE[0]  # the engine paints them at twice the size
BLUR = 5  # of its pixels
REFERENCE = np.array([[0.0, 0.0, height, 1.0, 0.0, 0.0, 0.0] for height in REST_HEIGHT])
"""Poses of the things whose shadows were cut out."""


@cache
def reference() -> State:
    """Where everything is whose shadow was cut out; one row."""
    numbers = numbers_of(np.array(SCENE.gripper), REFERENCE, REFERENCE)
    return State.of(torch.from_numpy(numbers)[None])


@cache
def cut_shadows() -> Tensor:
    """The shadow of each of ``PARTS`` at its reference, 1 where it is whole; float (1, 7, 1, 64, 64)."""
    masks = np.zeros((len(PARTS), SIDE, SIDE), np.uint8)
    bodies = gripper_bodies(np.array(SCENE.gripper))
    for name, points in casters():
        if name in bodies:
            placed, plane = points + bodies[name], PARTS.index("palm" if name == "gripper" else name)
        else:
            plane = THINGS.index(name)
            placed = points + REFERENCE[plane, :3]
        feet = shaded_at(torch.from_numpy(placed)).numpy()
        hull = cv2.convexHull(np.round(project(feet, SIDE) * 16).astype(np.int32))
        cv2.fillConvexPoly(masks[plane], hull, 255, cv2.LINE_AA, 4)
    small = [
        cv2.resize(cv2.blur(mask, (BLUR, BLUR)), FRAME_SIZE, interpolation=cv2.INTER_AREA) for mask in masks
    ]
    return torch.from_numpy(np.stack(small)).float()[None, :, None] / 255


@cache
def table_share() -> Tensor:
    """How much of each pixel shows the table's top when nothing stands on it; float (1, 64, 64)."""
    mask = table_mask(SIDE)[::-1].astype(np.float32)
    return torch.from_numpy(cv2.resize(mask, FRAME_SIZE, interpolation=cv2.INTER_AREA))[None]


for _made in (reference, cut_shadows, table_share):
    _made()  # now, see ``camera``


def shadows_of(state: State) -> Tensor:
    """By which share of its light each pixel of a bare table is darkened; (N, 1, h, w)."""
    (now, _), (then, _) = places_of(state), places_of(reference())
    first, place = (Where.of(shaded_at(x.to(now))) for x in (then, now))
    sprites = moved(cut_shadows().to(now), first, place, "bilinear")[:, :, 0]
    lowest = now[..., 2] - now.new_tensor(BELOW)
    shade = DARKNESS / 255 * (1 - lowest / FADE_HEIGHT).clamp(PALEST, 1)
    here = torch.cat([state.here_T, torch.ones_like(state.here_T[:, :1]).expand(-1, 3)], 1)
    return ((shade * here)[..., None, None] * sprites).amax(1, keepdim=True) * table_share().to(now)
