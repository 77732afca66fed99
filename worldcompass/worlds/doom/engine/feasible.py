"""Random composite trajectories as in the method (``worldcompass.worlds.trajectories``), around walls."""

from __future__ import annotations

import numpy as np
import torch

from worldcompass.geometry import motion_signs
from worldcompass.worlds.doom.engine.facts import MAX_PITCH_DEG, MOTION
from worldcompass.worlds.trajectories import FAMILIES, HOLD_MAX, HOLD_MIN, Mix, draw_motion

CLEARANCE = 20.0  # map units kept from walls; a player's box is 16 from centre to side
MAX_TRIES = 16

# The method's families; yaw alone weighs 2 where the method has 4: the shipped data and scenarios were drawn so.
MIX: Mix = tuple(zip((4.0, 2.0, 2.0, 6.0, 2.0, 6.0, 1.0), FAMILIES.values(), strict=True))
MOTIONS = tuple(action for actions in FAMILIES.values() for action in actions)
_SIGNS = motion_signs(torch.arange(81)).numpy()


def feasible_latents(action: int, latents: int, camera_5: np.ndarray, walls_L4: np.ndarray) -> int:
    """For how many of ``latents`` the nominal motion stays clear of walls and within the pitch range."""
    right, forward, yaw, pitch = _SIGNS[action]
    parts = np.arange(1, 2 * latents + 1) / 2  # checked twice per latent
    pitch_end = camera_5[4] + pitch * MOTION.pitch_deg * parts
    heading = np.deg2rad(camera_5[3] + yaw * MOTION.yaw_deg * parts)
    step = 0.5 * MOTION.move / max(np.hypot(right, forward), 1)
    east = camera_5[0] + np.cumsum(step * (np.cos(heading) * right + np.sin(heading) * forward))
    north = camera_5[2] + np.cumsum(step * (-np.sin(heading) * right + np.cos(heading) * forward))
    good = np.abs(pitch_end) <= MAX_PITCH_DEG
    if right or forward:
        good &= distance_to_walls(np.stack([east, north], -1), walls_L4) >= CLEARANCE
    return int(np.argmin(good)) // 2 if not good.all() else latents


def distance_to_walls(points_N2: np.ndarray, walls_L4: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest wall segment, map units."""
    if not len(walls_L4):
        return np.full(len(points_N2), np.inf)
    start, end = walls_L4[None, :, :2], walls_L4[None, :, 2:]
    along = end - start
    offset = points_N2[:, None] - start
    share = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    nearest = offset - np.clip(share, 0, 1)[..., None] * along
    return np.sqrt((nearest**2).sum(-1)).min(-1)


def sight(x: float, z: float, yaw_deg: float, walls_L4: np.ndarray) -> float:
    """How far one can walk straight ahead before a wall, map units."""
    if not len(walls_L4):
        return np.inf
    ahead = np.array([np.sin(np.deg2rad(yaw_deg)), np.cos(np.deg2rad(yaw_deg))])
    start = walls_L4[:, :2].astype(float) - (x, z)
    along = (walls_L4[:, 2:] - walls_L4[:, :2]).astype(float)
    cross = ahead[0] * along[:, 1] - ahead[1] * along[:, 0]
    safe = np.where(cross == 0, np.nan, cross)
    distance = (start[:, 0] * along[:, 1] - start[:, 1] * along[:, 0]) / safe
    share = (start[:, 0] * ahead[1] - start[:, 1] * ahead[0]) / safe
    hit = (distance > 0) & (share >= 0) & (share <= 1)
    return float(distance[hit].min()) if hit.any() else np.inf


def next_segment(rng: np.random.Generator, camera_5: np.ndarray, walls_L4: np.ndarray) -> tuple[int, int]:
    """A motion and for how many latents to hold it, such that the engine can most likely carry it out."""
    for _ in range(MAX_TRIES):
        action = draw_motion(rng, MIX)
        hold = feasible_latents(action, int(rng.integers(HOLD_MIN, HOLD_MAX + 1)), camera_5, walls_L4)
        if hold >= HOLD_MIN:
            return action, hold
    return int(rng.choice(FAMILIES["yaw"])), int(rng.integers(HOLD_MIN, HOLD_MAX // 2))
