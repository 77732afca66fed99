"""Camera poses by WorldPlay's conventions; pure functions.

They differ from ``geometry`` in three ways. Turns accumulate in the camera's own frame, so that yaw after pitch
rolls the camera. A diagonal moves the whole length along both axes. Labels derive from the motion in the previous
camera's frame, independent of the vertical.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.actions import CameraActions
from worldcompass.geometry import (
    NUM_ACTIONS,
    SECTOR_DEG,
    LabelThresholds,
    Motion,
    motion_signs,
    pose,
    rigid_inverse,
    rotation_from_angles,
)
from worldcompass.types import CameraMoves

# Motion of the released pose strings, and of the trajectories of WorldCompass's training; scene units, degrees.
MOTION = Motion(move=0.08, yaw_deg=3.0, pitch_deg=3.0, level=False)
TRAINING_MOTION = Motion(move=0.1, yaw_deg=2.0, pitch_deg=2.0, level=False)
# For the labels that condition the network: poses are exact, so almost any motion counts.
THRESHOLDS = LabelThresholds(move=1e-4, yaw_deg=0.05, pitch_deg=0.05)
# Camera of pose strings in WorldPlay's inference: focal length and size in pixels.
FOCAL, IMAGE_WIDTH, IMAGE_HEIGHT = 969.6969696969696, 1920, 1080
INTRINSICS = (FOCAL / IMAGE_WIDTH, FOCAL / IMAGE_HEIGHT, 0.5, 0.5)
_LOCKED = 1e-6  # cosine of the yaw below which pitch and roll share an axis (gimbal lock)


def camera_path(labels_M: Tensor, motion: Motion = MOTION, start_44: Tensor | None = None) -> Tensor:
    """``world_from_camera`` of commands: each turns the camera in its current frame, then moves it in the new one.

    Latent 0 is the identity, whatever its label; with a pose ``start_44`` (..., 4, 4) before it, it moves like all.
    Returns float64 (..., M, 4, 4).
    """
    right, forward, yaw, pitch = motion_signs(labels_M).double().unbind(-1)
    turns = rotation_from_angles(yaw * motion.yaw_deg, pitch * motion.pitch_deg)
    # Not shortened to one length: the generator of WorldCompass's trajectories adds the axes.
    steps = motion.move * torch.stack([right, torch.zeros_like(right), forward], -1)
    relative = pose(turns, (turns @ steps[..., None])[..., 0])
    steps_44 = list(relative.unbind(-3))
    if start_44 is None:
        eye = torch.eye(4, dtype=torch.float64, device=labels_M.device)
        path = [eye.expand_as(steps_44.pop(0))]
    else:
        path = [start_44.double() @ steps_44.pop(0)]
    for step in steps_44:
        path.append(path[-1] @ step)
    return torch.stack(path, -3)


@dataclass(frozen=True)
class WorldPlayActions(CameraActions):
    """The 81 camera motions with WorldPlay's paths and its camera."""

    intrinsics: tuple[float, float, float, float] = INTRINSICS

    def poses(self, labels_M: Tensor, start_44: Tensor | None = None) -> Tensor:
        """See ``CameraActions``; turns accumulate in the camera's own frame."""
        return camera_path(labels_M, self.motion, start_44).float()


def commanded(
    labels_M: Tensor, motion: Motion = MOTION, intrinsics: tuple[float, float, float, float] = INTRINSICS
) -> CameraMoves:
    """Actions of a list of labels, with the camera path that they command."""
    labels_M = labels_M.long()
    path = camera_path(labels_M, motion).float()
    return CameraMoves(labels_M, path, path.new_tensor(intrinsics).expand(len(labels_M), 4))


def labels_from_cameras(
    world_from_camera_M44: Tensor, thresholds: LabelThresholds = THRESHOLDS, third_person: bool = False
) -> Tensor:
    """Action labels of a trajectory, from each camera's motion in the previous camera's frame; int64 (..., M).

    A translation longer than the threshold counts along every axis within 60 degrees of it. Latent 0 gets action 0.

    Args:
        world_from_camera_M44: poses, (..., M, 4, 4).
        thresholds: motion must be strictly greater.
        third_person: ignore translations while the camera turns, as it then orbits its subject.
    """
    before, after = world_from_camera_M44[..., :-1, :, :], world_from_camera_M44[..., 1:, :, :]
    motion = rigid_inverse(before) @ after
    step = motion[..., :3, 3]
    length = step.norm(dim=-1)
    level = torch.hypot(motion[..., 0, 0], motion[..., 1, 0])
    yaw = torch.atan2(-motion[..., 2, 0], level)
    pitch = torch.where(
        level < _LOCKED,
        torch.atan2(-motion[..., 1, 2], motion[..., 1, 1]),
        torch.atan2(motion[..., 2, 1], motion[..., 2, 2]),
    )
    turns = [_sign(yaw.rad2deg(), thresholds.yaw_deg), _sign(pitch.rad2deg(), thresholds.pitch_deg)]
    cut = length * torch.cos(torch.deg2rad(length.new_tensor(SECTOR_DEG)))
    moving = length > thresholds.move
    if third_person:
        moving = moving & (turns[0] == 0) & (turns[1] == 0)
    moves = [_sign(step[..., axis], cut) * moving for axis in (0, 2)]
    labels = _label_of_signs(length.device)[tuple(sign + 1 for sign in (*moves, *turns))]
    return pad(labels, (1, 0))


def normalised_intrinsics(pixels_33: Tensor) -> Tensor:
    """fx, fy, cx, cy over the image's size, which is twice the principal point; (..., 4)."""
    width, height = 2 * pixels_33[..., 0, 2], 2 * pixels_33[..., 1, 2]
    fx, fy = pixels_33[..., 0, 0] / width, pixels_33[..., 1, 1] / height
    return torch.stack([fx, fy, torch.full_like(fx, 0.5), torch.full_like(fx, 0.5)], -1)


def _sign(value: Tensor, limit: Tensor | float) -> Tensor:
    return (value > limit).long() - (value < -limit).long()


def _label_of_signs(device: torch.device) -> Tensor:
    """The action with each combination of signs (right, forward, yaw, pitch), + 1; (3, 3, 3, 3)."""
    labels = torch.arange(NUM_ACTIONS, device=device)
    signs = motion_signs(labels).long() + 1
    table = labels.new_zeros(3, 3, 3, 3)
    table[tuple(signs.unbind(-1))] = labels
    return table
