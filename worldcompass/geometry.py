"""Camera motion: labels, poses and nominal trajectories, as pure functions.

Conventions (docs/architecture.md): ``world_from_camera`` 4x4, OpenCV axes (x right, y down, z forward).
Yaw + is to the right, pitch + is up, degrees. One label per latent, ``9 * translation + rotation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from worldcompass.devices.autocast import without_autocast

NUM_TRANSLATIONS = NUM_ROTATIONS = 9
NUM_ACTIONS = NUM_TRANSLATIONS * NUM_ROTATIONS
# Translations: none, forward, backward, right, left, forward-right, forward-left, backward-right, backward-left.
# Rotations: none, yaw right, yaw left, pitch up, pitch down, right-up, right-down, left-up, left-down.
# Signs of (right, forward) for each translation and of (yaw right, pitch up) for each rotation.
_TRANSLATION_SIGNS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
_ROTATION_SIGNS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))

_LINALG = cast("Any", torch.linalg)  # its functions have no types

# Largest angle in degrees between a motion and its axis; from the labels of WorldPlay.
SECTOR_DEG = 60.0


@dataclass(frozen=True)
class Motion:
    """Motion of the camera by one action over one latent."""

    move: float
    """Length per latent in the world's unit, along the direction of the translation."""
    yaw_deg: float
    pitch_deg: float
    level: bool
    """True to move along the ground independent of pitch (games), False to move along the camera's axes."""
    substeps: int = 1
    """Number of equal parts of a latent's motion, each a turn and a move (a game moves every frame)."""


@dataclass(frozen=True)
class LabelThresholds:
    """Thresholds of motion over one latent, which an action must exceed."""

    move: float
    yaw_deg: float
    pitch_deg: float


def label(translation: int, rotation: int) -> int:
    """The composite action of a translation and a rotation class."""
    return NUM_ROTATIONS * translation + rotation


def split_label(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Translation and rotation classes of composite actions."""
    return labels // NUM_ROTATIONS, labels % NUM_ROTATIONS


def motion_signs(labels: Tensor) -> Tensor:
    """Signs of (right, forward, yaw right, pitch up) of each action; float32, (..., 4)."""
    translation, rotation = split_label(labels)
    moves = torch.tensor(_TRANSLATION_SIGNS, dtype=torch.float32, device=labels.device)
    turns = torch.tensor(_ROTATION_SIGNS, dtype=torch.float32, device=labels.device)
    return torch.cat([moves[translation], turns[rotation]], -1)


def label_from_signs(right: int, forward: int, yaw: int, pitch: int) -> int:
    """The composite action with these signs."""
    return label(_TRANSLATION_SIGNS.index((right, forward)), _ROTATION_SIGNS.index((yaw, pitch)))


def signs_of_label(index: int) -> tuple[int, int, int, int]:
    """Signs of (right, forward, yaw right, pitch up) of one action."""
    return (*_TRANSLATION_SIGNS[index // NUM_ROTATIONS], *_ROTATION_SIGNS[index % NUM_ROTATIONS])


def opposite(index: int) -> int:
    """The composite action with the opposite signs."""
    return label_from_signs(*(-sign for sign in signs_of_label(index)))


def rotation_from_angles(yaw_deg: Tensor, pitch_deg: Tensor) -> Tensor:
    """``world_from_camera`` rotation of a camera without roll: yaw about the vertical, then pitch; (..., 3, 3)."""
    yaw, pitch = torch.deg2rad(yaw_deg), torch.deg2rad(pitch_deg)
    cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    zero = torch.zeros_like(cy)
    rows = [cy, sy * sp, sy * cp, zero, cp, -sp, -sy, cy * sp, cy * cp]
    return torch.unflatten(torch.stack(rows, -1), -1, (3, 3))


def angles_from_rotation(rotation_33: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw and pitch of the viewing direction in degrees, without roll."""
    forward = rotation_33[..., :, 2]
    yaw = torch.atan2(forward[..., 0], forward[..., 2])
    pitch = torch.asin((-forward[..., 1]).clamp(-1, 1))
    return torch.rad2deg(yaw), torch.rad2deg(pitch)


def pose(rotation_33: Tensor, position_3: Tensor) -> Tensor:
    """A 4x4 ``world_from_camera`` of a rotation and a camera centre; (..., 4, 4)."""
    top = torch.cat([rotation_33, position_3[..., None]], -1)
    bottom = torch.tensor([0.0, 0, 0, 1], dtype=top.dtype, device=top.device).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)


def wrap_degrees(angle: Tensor) -> Tensor:
    """Angles wrapped to [-180, 180)."""
    return torch.remainder(angle + 180, 360) - 180


def level_motion(previous_44: Tensor, current_44: Tensor) -> Tensor:
    """Motion between two poses in the yaw frame of the first: (right, forward, yaw deg, pitch deg); (..., 4)."""
    yaw_0, pitch_0 = angles_from_rotation(previous_44[..., :3, :3])
    yaw_1, pitch_1 = angles_from_rotation(current_44[..., :3, :3])
    step = current_44[..., :3, 3] - previous_44[..., :3, 3]
    cos, sin = torch.deg2rad(yaw_0).cos(), torch.deg2rad(yaw_0).sin()
    right = cos * step[..., 0] - sin * step[..., 2]
    forward = sin * step[..., 0] + cos * step[..., 2]
    return torch.stack([right, forward, wrap_degrees(yaw_1 - yaw_0), pitch_1 - pitch_0], -1)


def camera_motion(previous_44: Tensor, current_44: Tensor) -> Tensor:
    """Motion between two poses in the camera frame of the first: (right, forward, yaw deg, pitch deg); (..., 4).

    Unlike ``level_motion`` it needs no vertical, which camera estimators do not know.
    """
    step = relative_pose(previous_44, current_44)
    yaw, pitch = angles_from_rotation(step[..., :3, :3])
    return torch.stack([step[..., 0, 3], step[..., 2, 3], yaw, pitch], -1)


def relative_pose(previous_44: Tensor, current_44: Tensor) -> Tensor:
    """``previous_from_current``: the second camera in the frame of the first; (..., 4, 4)."""
    turn = previous_44[..., :3, :3].transpose(-1, -2)
    step = (turn @ (current_44[..., :3, 3] - previous_44[..., :3, 3])[..., None])[..., 0]
    return pose(turn @ current_44[..., :3, :3], step)


def rotation_angle(rotation_33: Tensor) -> Tensor:
    """Angle of a rotation about its axis, degrees in [0, 180]; accurate for small angles."""
    skew = rotation_33 - rotation_33.transpose(-1, -2)
    sine = _length(torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1))[..., 0] / 2
    cosine = (rotation_33.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def _length(vectors_3: Tensor) -> Tensor:
    """Length of vectors; (..., 1)."""
    return _LINALG.vector_norm(vectors_3, dim=-1, keepdim=True)


def umeyama(source_N3: Tensor, target_N3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, rotation (..., 3, 3) and shift (..., 3) with the least squared ``target - (scale R source + shift)``.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE
    PAMI 13 (1991), equations 40 to 43. The scale of coincident points is 0.
    """
    source_mean, target_mean = source_N3.double().mean(-2), target_N3.double().mean(-2)
    source = source_N3.double() - source_mean[..., None, :]
    target = target_N3.double() - target_mean[..., None, :]
    parts: tuple[Tensor, Tensor, Tensor] = _LINALG.svd(target.transpose(-1, -2) @ source)
    u, size, vt = parts
    sign = torch.ones_like(size)
    sign[..., 2] = torch.where(torch.det(u @ vt) < 0, -1.0, 1.0)
    rotation = u * sign[..., None, :] @ vt
    spread = source.square().sum((-2, -1))
    scale = torch.where(spread > 0, (size * sign).sum(-1) / spread.clamp_min(1e-300), 0.0)
    shift = target_mean - scale[..., None] * (rotation @ source_mean[..., None])[..., 0]
    kind = source_N3.dtype
    return scale.to(kind), rotation.to(kind), shift.to(kind)


def label_from_motion(motion_4: Tensor, thresholds: LabelThresholds) -> Tensor:
    """Composite actions of measured motions (right, forward, yaw deg, pitch deg).

    A translation has a sign along an axis when it is longer than the threshold and within 60 degrees of the axis
    (WorldPlay's action labels); int64.
    """
    right, forward, yaw, pitch = motion_4.unbind(-1)
    length = torch.hypot(right, forward)
    cut = torch.cos(torch.deg2rad(torch.tensor(SECTOR_DEG))) * length
    moving = length > thresholds.move

    def sign(value: Tensor, limit: Tensor | float) -> Tensor:
        return (value > limit).long() - (value < -limit).long()

    table_t = torch.zeros(3, 3, dtype=torch.long)
    table_r = torch.zeros(3, 3, dtype=torch.long)
    for index, (a, b) in enumerate(_TRANSLATION_SIGNS):
        table_t[a + 1, b + 1] = index
    for index, (a, b) in enumerate(_ROTATION_SIGNS):
        table_r[a + 1, b + 1] = index
    translation = table_t[(sign(right, cut) * moving) + 1, (sign(forward, cut) * moving) + 1]
    rotation = table_r[sign(yaw, thresholds.yaw_deg) + 1, sign(pitch, thresholds.pitch_deg) + 1]
    return NUM_ROTATIONS * translation + rotation


def labels_from_poses(world_from_camera_M44: Tensor, thresholds: LabelThresholds) -> Tensor:
    """Labels of a trajectory from its poses; latent 0 gets action 0. int64 (..., M)."""
    motion = level_motion(world_from_camera_M44[..., :-1, :, :], world_from_camera_M44[..., 1:, :, :])
    labels = label_from_motion(motion, thresholds)
    return pad(labels, (1, 0))


def nominal_poses(labels_M: Tensor, motion: Motion, start_44: Tensor | None = None) -> Tensor:
    """The nominal camera path of commands: the pose after each, float32 (..., M, 4, 4).

    In each of ``motion.substeps`` parts the camera turns (yaw, then pitch) and then moves in its new frame
    (WorldPlay's pose strings); with ``motion.level`` it moves along the ground independent of pitch.

    Args:
        labels_M: commands; that of a start image is 0.
        motion: of each.
        start_44: pose without roll before the first command, (..., 4, 4); the identity when None.
    """
    parts = motion.substeps
    right, forward, yaw, pitch = motion_signs(labels_M).double().repeat_interleave(parts, -2).unbind(-1)
    yaw_deg = (yaw * motion.yaw_deg / parts).cumsum(-1)
    pitch_deg = (pitch * motion.pitch_deg / parts).cumsum(-1)
    if start_44 is not None:
        turned = start_44[..., :3, :3].double()
        # Unlike ``angles_from_rotation`` also right where the camera looks backward over its head.
        yaw_deg = yaw_deg + torch.atan2(-turned[..., 2, 0], turned[..., 0, 0]).rad2deg()[..., None]
        pitch_deg = pitch_deg + torch.atan2(-turned[..., 1, 2], turned[..., 1, 1]).rad2deg()[..., None]
    rotation = rotation_from_angles(yaw_deg, pitch_deg)
    walking = rotation_from_angles(yaw_deg, torch.zeros_like(pitch_deg)) if motion.level else rotation
    step = torch.stack([right, torch.zeros_like(right), forward], -1)
    step = motion.move / parts * step / _length(step).clamp_min(1)
    position = (walking @ step[..., None])[..., 0].cumsum(-2)
    if start_44 is not None:
        position = position + start_44[..., None, :3, 3].double()
    return pose(rotation, position)[..., parts - 1 :: parts, :, :].float()


def within_pitch(
    labels_PM: Tensor, labels_P: Tensor, motion: Motion, limit_deg: float | None, latents: int = 1
) -> Tensor:
    """The next actions, without pitch where they would exceed the limit; int64 (P,).

    Args:
        labels_PM: actions so far, from a level camera.
        labels_P: next actions.
        motion: nominal motion of an action over one latent.
        limit_deg: of the pitch; no limit when None.
        latents: number of latents to hold each next action.
    """
    if limit_deg is None:
        return labels_P
    pitch = motion_signs(labels_PM)[..., 3].sum(1) * motion.pitch_deg
    signs = motion_signs(labels_P)
    turns = motion.pitch_deg * latents * signs[:, 3]
    signs[:, 3] = torch.where((pitch + turns).abs() > limit_deg + 1e-6, 0, signs[:, 3])
    return torch.tensor([label_from_signs(*(int(s) for s in row)) for row in signs])


def rigid_inverse(pose_44: Tensor) -> Tensor:
    """The inverse of a rotation and translation; (..., 4, 4)."""
    back = pose_44[..., :3, :3].mT
    with without_autocast(back):
        return pose(back, -(back @ pose_44[..., :3, 3:])[..., 0])
