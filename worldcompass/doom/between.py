"""The frames between two pictures of the Doom world: how did the camera move, and how far away is what it sees?

Both pictures are warped towards each frame between by what camera motion and depth imply, blended, and touched up.
How well each place of one picture matches the other at every displacement is measured, not learned: a small
network finds no correspondences by itself in the time that a CPU has. The motion is read from these matches, and is
trained on the engine's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.doom.engine_facts import FRAME_HEIGHT, FRAME_WIDTH, FRAMES_PER_LATENT, INTRINSICS, MOTION

FINE, HIDDEN = 96, 64  # channels of the pictures' features and of the network, on the fine grid
FINE_CELL = 4  # pixels per side of a cell of the fine grid, 12x16
NUM_BETWEEN = FRAMES_PER_LATENT - 1
REACH = (6, 3)  # largest displacement in x and y that is tried between two pictures, in pixels of half size
NUM_DISPLACEMENTS = (2 * REACH[0] + 1) * (2 * REACH[1] + 1)
MATCH_SHARE, MATCH_FLOOR = 0.05, 0.005  # how fast a match falls with its cost, in the mean cost of the window
CONTRAST_FLOOR = 0.02  # local contrast below which a picture counts as flat
USUAL_NEARNESS = 0.1  # one latent's walk over the distance of what is seen, before anything is learned
NEAREST = 0.2  # share of its distance that a point keeps at least while the camera moves
_OWN = 5  # learned numbers per frame between: displacement in the earlier and the later picture, their blend


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution born zero; no normalisation, which is slow on CPUs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels, y, x) to the same shape."""
        return x + self.second(functional.silu(self.first(functional.silu(x))))


class Between(nn.Module):
    """The frames between two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.read_motion = nn.Sequential(
            nn.Conv2d(2 * (NUM_DISPLACEMENTS + 2), 48, 1),
            nn.SiLU(),
            nn.Conv2d(48, 48, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(48 * (FRAME_HEIGHT // FINE_CELL // 2) * (FRAME_WIDTH // FINE_CELL // 2), 128),
            nn.SiLU(),
            nn.Linear(128, 4),
        )
        self.net = nn.Sequential(
            nn.Conv2d(2 * FINE + 2 * (NUM_DISPLACEMENTS + 2), HIDDEN, 3, padding=1),
            Residual(HIDDEN),
            Residual(HIDDEN),
            nn.SiLU(),
        )
        self.own = nn.Conv2d(HIDDEN, 1 + _OWN * NUM_BETWEEN, 3, padding=1)
        self.touch_up = nn.Conv2d(HIDDEN, 3 * FINE_CELL**2 * NUM_BETWEEN, 3, padding=1)
        for layer in (self.own, self.touch_up):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features_B2cyx: Tensor, pictures_B23hw: Tensor) -> tuple[Tensor, Tensor]:
        """Frames between an earlier and a later picture, and the motion from one to the other.

        Returns:
            Frames (B, 3, 3, h, w), about [0, 1], and right, forward, yaw and pitch in nominal units (B, 4).
        """
        there, back = matches(pictures_B23hw), matches(pictures_B23hw.flip(1))
        mean = [torch.einsum("bdyx,dc->bcyx", m, displacements(m.device)) for m in (there, back)]
        evidence = torch.cat([there, back, *mean], 1)
        motion = self.read_motion(evidence)
        hidden = self.net(torch.cat([features_B2cyx.flatten(1, 2), evidence], 1))
        own = self.own(hidden)
        # What is seen stands still: one depth serves all frames. Positive, and usual at first.
        nearness = functional.softplus(own[:, 0] + math.log(math.expm1(USUAL_NEARNESS)))
        learned = own[:, 1:].unflatten(1, (NUM_BETWEEN, _OWN))
        share = torch.arange(1, FRAMES_PER_LATENT, device=own.device) / FRAMES_PER_LATENT
        fields = [
            rigid_displacement(motion, nearness, parts) + learned[:, :, 2 * i : 2 * i + 2]
            for i, parts in enumerate((-share, 1 - share))
        ]
        maps = torch.cat([*fields, learned[:, :, 4:]], 2).flatten(1, 2)
        maps = functional.interpolate(maps, scale_factor=FINE_CELL, mode="bilinear")
        earlier, later, blend = maps.unflatten(1, (NUM_BETWEEN, _OWN)).split((2, 2, 1), 2)
        weight = torch.sigmoid(blend + torch.logit(share).view(-1, 1, 1, 1))
        warped = [warp(pictures_B23hw[:, i], field) for i, field in enumerate((earlier, later))]
        touch_up = functional.pixel_shuffle(self.touch_up(hidden), FINE_CELL).unflatten(1, (NUM_BETWEEN, 3))
        return torch.lerp(warped[0], warped[1], weight) + touch_up, motion


def rigid_displacement(motion_B4: Tensor, nearness_Byx: Tensor, parts_N: Tensor) -> Tensor:
    """Where a still world is seen after parts of a motion, against where it is now; (B, N, 2, y, x).

    Args:
        motion_B4: right, forward, yaw and pitch in nominal units.
        nearness_Byx: nominal walk over the distance of what each cell of the fine grid sees now.
        parts_N: of the motion; negative goes back.

    Returns:
        Displacement right and down in cells of the fine grid. Looking up or down moves the picture as a
        whole, as in the engine's renderer.
    """
    fx, fy, cx, cy = INTRINSICS
    rows, columns = nearness_Byx.shape[1:]
    device = nearness_Byx.device
    y, x = torch.meshgrid(
        ((torch.arange(rows, device=device) + 0.5) / rows - cy) / fy,
        ((torch.arange(columns, device=device) + 0.5) / columns - cx) / fx,
        indexing="ij",
    )
    right, forward, yaw, pitch = (parts_N * motion_B4[:, :, None]).permute(1, 0, 2)[..., None, None]
    yaw, pitch = yaw * math.radians(MOTION.yaw_deg), pitch * math.radians(MOTION.pitch_deg)
    near = nearness_Byx[:, None]
    across, ahead = x - right * near, 1 - forward * near
    turned = (yaw.cos() * across - yaw.sin() * ahead, yaw.sin() * across + yaw.cos() * ahead)
    depth = turned[1].clamp_min(NEAREST)
    moved = torch.stack([(turned[0] / depth - x) * fx * columns, (y / depth + pitch - y) * fy * rows], 2)
    return moved


@torch.no_grad()
def matches(pictures_B23hw: Tensor) -> Tensor:
    """Share of each displacement in how a place of the first picture matches the second; (B, D, h/4, w/4)."""
    halves = functional.avg_pool2d(pictures_B23hw.flatten(0, 1), 2)
    local = halves - _smooth(halves)
    first, second = (
        (local / (_smooth(local.square()).sqrt() + CONTRAST_FLOOR)).unflatten(0, (-1, 2)).unbind(1)
    )
    (reach_x, reach_y), (height, width) = REACH, first.shape[-2:]
    padded = functional.pad(second, (reach_x, reach_x, reach_y, reach_y), mode="replicate")
    costs = [
        (first - padded[:, :, y : y + height, x : x + width]).abs_().mean(1)
        for y in range(2 * reach_y + 1)
        for x in range(2 * reach_x + 1)
    ]
    cost = functional.avg_pool2d(_smooth(torch.stack(costs, 1), 1), FINE_CELL // 2)
    return torch.softmax(-cost / (MATCH_SHARE * cost.mean(1, keepdim=True) + MATCH_FLOOR), 1)


def displacements(device: torch.device) -> Tensor:
    """The displacements of ``matches``, right and down in cells of the fine grid; (D, 2)."""
    down, right = (torch.arange(-reach, reach + 1, device=device) for reach in REACH[::-1])
    y, x = torch.meshgrid(down, right, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1) * 2 / FINE_CELL


def _smooth(planes: Tensor, reach: int = 3) -> Tensor:
    """Mean over squares of ``2 reach + 1`` pixels."""
    padded = functional.pad(planes, (reach, reach, reach, reach), mode="replicate")
    return functional.avg_pool2d(padded, 2 * reach + 1, 1)


def warp(picture_B3hw: Tensor, displacement_BN2hw: Tensor) -> Tensor:
    """N warped copies (B, N, 3, h, w) of each picture; displacements in cells of the fine grid."""
    height, width = picture_B3hw.shape[-2:]
    count = displacement_BN2hw.shape[1]
    device = picture_B3hw.device
    rows = (2 * torch.arange(height, device=device) + 1) / height - 1
    columns = (2 * torch.arange(width, device=device) + 1) / width - 1
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)
    scale = torch.tensor([2 * FINE_CELL / width, 2 * FINE_CELL / height], device=device)
    grid = place + scale * displacement_BN2hw.movedim(2, -1)
    # The copies of one picture lie below one another in one tall grid, which saves copying the picture.
    out = functional.grid_sample(picture_B3hw, grid.flatten(1, 2), padding_mode="border", align_corners=False)
    return out.unflatten(2, (count, height)).movedim(2, 1)
