"""The network of the critics: where the gripper is in a picture, and which things are there, of which colour.

Every frame is read alone. A small U-shaped network gives maps on a grid of 4 pixels. The gripper is a regression
with a deviation of its own; a thing is a spot on its kind's map. Both say how sure they are: pictures that show
nothing known give wide deviations and no spots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu, softplus

from worldcompass.worlds.hands.facts import (
    BOTTLE_HEIGHT,
    CAMERA_POSITION,
    CUP_HEIGHT,
    FRAME_SIZE,
    LIMIT_HIGH,
    LIMIT_LOW,
    NOMINAL,
    STEP,
    THINGS,
)
from worldcompass.worlds.hands.view import projection
from worldcompass.worlds.small.autoencoder import Residual

CELL = 4  # pixels per side of a cell of the maps
GRID = (FRAME_SIZE[0] // CELL, FRAME_SIZE[1] // CELL)
SPOT = 0.7  # deviation of a thing's spot, in cells
SPOT_MASS = 2 * math.pi * SPOT**2  # sum of one whole spot
WINDOW = 5  # cells per side of the window that is read around the highest cell
PER_THING = 5  # maps of a kind: its spot, its colour, its height
POINTS = 12  # of the spatial softmax
MIDDLE = (LIMIT_LOW + LIMIT_HIGH) / 2
LEAST_SPREAD = 0.02  # of the gripper's place, in steps
BATCH = 256  # frames of one pass without gradients


@dataclass(frozen=True)
class Maps:
    """What the network says of N frames."""

    grip_N4: Tensor
    """The gripper's x, y, z and opening, in steps (``facts.NOMINAL``) from the middle of its range."""
    spread_N4: Tensor
    """Standard deviation of each."""
    spots_NTyx: Tensor
    """Logits of the kinds' spots."""
    colours_NT3yx: Tensor
    """Red, green and blue of the thing at each cell, in 0..1."""
    heights_NTyx: Tensor
    """Height of the middle of the thing at each cell, in steps."""


@dataclass(frozen=True)
class Seen:
    """What N frames show, in metres, with T kinds in the order of ``facts.THINGS``; or with more leading axes."""

    grip_N4: Tensor
    """x, y and z of the point between the finger tips, and the opening."""
    spread_N4: Tensor
    """Standard deviation of each, metres."""
    there_NT: Tensor
    """How much of the kind's spot is there: 0 without the thing, 1 with it."""
    more_NT: Tensor
    """How much of further things of the kind is there."""
    place_NT3: Tensor
    """x, y and z of the thing's middle; it means nothing where the thing is not there."""
    pixel_NT2: Tensor
    """Its column and row."""
    colour_NT3: Tensor
    """Its red, green and blue, in 0..1."""

    def unflatten(self, *shape: int) -> Self:
        """The first axis as several."""
        return type(self)(*(getattr(self, f.name).unflatten(0, shape) for f in fields(self)))

    def pick(self, index: int | slice | Tensor, axis: int) -> Self:
        """Some entries along a leading axis."""
        cut = (slice(None),) * axis
        return type(self)(*(getattr(self, f.name)[(*cut, index)] for f in fields(self)))


class SceneReader(nn.Module):
    """Maps of frames. About 310,000 parameters.

    Args:
        width: channels on the grid of the maps.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        coarse = 64
        self.enter = nn.Conv2d(5, width, CELL + 2, CELL, 1)
        self.fine = nn.Sequential(Residual(width), nn.SiLU())
        self.down = nn.Conv2d(width, coarse, 3, 2, 1)
        self.deep = nn.Sequential(Residual(coarse), nn.SiLU())
        self.up = nn.Conv2d(coarse, width, 1)
        self.top = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU())
        self.points = nn.Conv2d(width, POINTS, 1)
        self.gist = nn.Conv2d(coarse, 16, 1)
        self.grip = nn.Sequential(nn.Linear(2 * POINTS + 16 * 64, 128), nn.SiLU(), nn.Linear(128, 8))
        self.things = nn.Conv2d(width, len(THINGS) * PER_THING, 1)
        bias = torch.zeros(len(THINGS), PER_THING)
        bias[:, 0], bias[:, 1:4] = -4.0, 0.5  # few cells hold a spot
        self.things.bias = nn.Parameter(bias.flatten())
        rows, columns = (torch.linspace(-1, 1, size) for size in FRAME_SIZE)
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        self.register_buffer("where", where, persistent=False)
        self.where: Tensor

    def forward(self, frames_N3hw: Tensor) -> Maps:
        """Maps of frames in [0, 1], float32 (N, 3, 64, 64)."""
        where = self.where.expand(len(frames_N3hw), -1, -1, -1)
        fine = self.fine(silu(self.enter(torch.cat([2 * frames_N3hw - 1, where], 1))))
        deep = self.deep(silu(self.down(fine)))
        top = self.top(fine + interpolate(self.up(deep), scale_factor=2.0))
        gripper = self.grip(torch.cat([self._points(top), self.gist(deep).flatten(1)], 1)).float()
        things = self.things(top).float().unflatten(1, (len(THINGS), PER_THING))
        return Maps(
            grip_N4=gripper[:, :4],
            spread_N4=softplus(gripper[:, 4:]) + LEAST_SPREAD,
            spots_NTyx=things[:, :, 0],
            colours_NT3yx=things[:, :, 1:4],
            heights_NTyx=things[:, :, 4],
        )

    def _points(self, top: Tensor) -> Tensor:
        """Where each map of features is highest on average, (N, 2 * POINTS) in -1..1 (spatial softmax)."""
        weights = self.points(top).float().flatten(2).softmax(-1)
        where = avg_pool2d(self.where[None], CELL)[0].flatten(1)
        return (weights @ where.T).flatten(1)

    @torch.no_grad()
    def read(self, frames_N3hw: Tensor) -> Seen:
        """What uint8 frames (N, 3, 64, 64) show; on the CPU.

        Raises:
            ValueError: for frames of another size.
        """
        if tuple(frames_N3hw.shape[-3:]) != (3, *FRAME_SIZE):
            raise ValueError(
                f"the Hands critics read frames of (3, 64, 64), got {tuple(frames_N3hw.shape[-3:])}"
            )
        parts = [seen_of(self(part.to(self.where.device).float() / 255)) for part in frames_N3hw.split(BATCH)]
        return Seen(*(torch.cat([getattr(p, f.name) for p in parts]).cpu() for f in fields(Seen)))

    def read_videos(self, frames_PF3hw: Tensor) -> Seen:
        """What P videos of F frames show; fields (P, F, ...)."""
        return self.read(frames_PF3hw.flatten(0, 1)).unflatten(*frames_PF3hw.shape[:2])


def seen_of(maps: Maps) -> Seen:
    """The gripper in metres, and each kind's highest spot with what is beyond it."""
    nominal = torch.tensor(NOMINAL).to(maps.grip_N4)
    middle = torch.tensor(MIDDLE).to(maps.grip_N4)
    spots = maps.spots_NTyx.sigmoid()
    around = _around(spots)
    weights = spots * around
    mass = weights.sum((-2, -1))
    share = weights / mass.clamp_min(1e-6)[..., None, None]
    rows, columns = (torch.arange(size, device=spots.device, dtype=spots.dtype) for size in GRID)
    cell = torch.stack([(share.sum(-2) * columns).sum(-1), (share.sum(-1) * rows).sum(-1)], -1)
    pixel = CELL * cell + (CELL - 1) / 2
    height = (share * maps.heights_NTyx).sum((-2, -1)) * STEP
    colour = (share[:, :, None] * maps.colours_NT3yx).sum((-2, -1))
    beyond = (spots * (1 - around) - 0.02).clamp_min(0).sum((-2, -1))  # the floor of all cells is no thing
    return Seen(
        grip_N4=maps.grip_N4 * nominal + middle,
        spread_N4=maps.spread_N4 * nominal,
        there_NT=(mass / SPOT_MASS).clamp(0, 1),
        more_NT=(beyond / SPOT_MASS).clamp(0, 1),
        place_NT3=above(pixel, height),
        pixel_NT2=pixel,
        colour_NT3=colour.clamp(0, 1),
    )


def _around(spots_NTyx: Tensor) -> Tensor:
    """1 in the window around each map's highest cell, else 0."""
    best = spots_NTyx.flatten(2).argmax(-1)
    row, column = best // GRID[1], best % GRID[1]
    rows, columns = (torch.arange(size, device=best.device) for size in GRID)
    half = WINDOW // 2
    near_row = (rows - row[..., None]).abs() <= half
    near_column = (columns - column[..., None]).abs() <= half
    return (near_row[..., :, None] & near_column[..., None, :]).to(spots_NTyx)


def above(pixel_X2: Tensor, height_X: Tensor) -> Tensor:
    """Points of a known height, metres, that are seen at pixels (column, row from the top); (..., 3)."""
    to_pixel = torch.from_numpy(projection(FRAME_SIZE[0])).to(pixel_X2)
    camera = torch.tensor(CAMERA_POSITION).to(pixel_X2)
    upwards = FRAME_SIZE[0] - 1 - pixel_X2[..., 1]
    seen = torch.stack([pixel_X2[..., 0], upwards, torch.ones_like(upwards)], -1)
    rays = seen @ torch.linalg.inv(to_pixel).T
    scale = (height_X - camera[2]) / rays[..., 2]
    return camera + scale[..., None] * rays


def middles_of(things_T7: np.ndarray) -> np.ndarray:
    """The middle of each thing from its pose, float64 (..., T, 3): cup and bottle stand on their origin."""
    poses = np.asarray(things_T7, np.float64)
    half = np.array([CUP_HEIGHT / 2, 0, 0, BOTTLE_HEIGHT / 2])
    w, x, y, z = np.moveaxis(poses[..., 3:], -1, 0)
    up = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    return poses[..., :3] + half[:, None] * up
