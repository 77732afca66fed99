"""Camera paths estimated from frames, and how critics read them.

An estimator sees only frames, so its length unit may be arbitrary. Compare lengths after ``umeyama`` alignment, or
with a threshold calibrated for that estimator (``calibrated_thresholds``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from worldcompass.geometry import LabelThresholds, camera_motion, label_from_motion, split_label
from worldcompass.types import Group


@dataclass(frozen=True)
class CameraPath:
    """The camera of V videos at S + 1 times: at the first frame and after each of S steps."""

    world_from_camera_VS44: Tensor
    """float32, (V, S + 1, 4, 4): OpenCV axes, the first pose the identity, in the estimator's length unit."""
    intrinsics_VS4: Tensor
    """float32, (V, S + 1, 4): fx, fy, cx, cy divided by the image's width and height."""
    confidence_VS: Tensor
    """float32, (V, S) in [0, 1]: confidence in each step's motion; 0 is a guess."""

    def motion_VS4(self) -> Tensor:
        """Motion of every step in the frame of the camera before it: (right, forward, yaw deg, pitch deg)."""
        return camera_motion(self.world_from_camera_VS44[:, :-1], self.world_from_camera_VS44[:, 1:])


@runtime_checkable
class CameraEstimator(Protocol):
    """Estimates camera paths from pixels, each video independently."""

    @property
    def name(self) -> str:
        """Name in tables, such as ``odometry``."""
        ...

    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """The path of V videos of F = 1 + ``every`` * S uint8 frames, at every ``every``-th frame.

        Args:
            frames_VF3hw: the videos.
            intrinsics_4: fx, fy, cx, cy over width and height, for estimators that do not estimate them.
            every: frames per step.

        Raises:
            ValueError: when F does not fit ``every``.
        """
        ...


class Remembering:
    """Caches an estimator's last path, so critics that share it estimate a group's cameras only once."""

    def __init__(self, estimator: CameraEstimator) -> None:
        self.estimator = estimator
        self._seen: tuple[Tensor, Tensor, int] | None = None
        self._path: CameraPath | None = None

    @property
    def name(self) -> str:
        """Name of the wrapped estimator."""
        return self.estimator.name

    def __call__(self, frames_VF3hw: Tensor, intrinsics_4: Tensor, every: int) -> CameraPath:
        """The cached path when all arguments are equal to the last call's, else a new one."""
        seen = (frames_VF3hw, intrinsics_4, every)
        if self._path is None or self._seen is None or not _same(self._seen, seen):
            self._path = self.estimator(*seen)
            self._seen = (frames_VF3hw.clone(), intrinsics_4.clone(), every)
        return self._path


def _same(a: tuple[Tensor, Tensor, int], b: tuple[Tensor, Tensor, int]) -> bool:
    return a[2] == b[2] and torch.equal(a[1], b[1]) and a[0].device == b[0].device and torch.equal(a[0], b[0])


def steps_of(frames_VF3hw: Tensor, every: int) -> int:
    """S, the number of steps.

    Raises:
        ValueError: when F is not 1 + every * S.
    """
    steps, rest = divmod(frames_VF3hw.shape[1] - 1, every)
    if rest or steps < 0:
        raise ValueError(f"expected 1 + {every} S frames, got {frames_VF3hw.shape[1]}")
    return steps


@dataclass(frozen=True)
class Seen:
    """Estimated and commanded motion of a group's moving latents."""

    path: CameraPath
    motion_GS4: Tensor
    """float32: right, forward, yaw deg, pitch deg of every step."""
    trusted_GS: Tensor
    """bool: steps whose confidence reaches the critic's minimum."""
    labels_S: Tensor
    """int64: the commanded action of every step."""


def look(estimator: CameraEstimator, group: Group, least: float, every: int | None = None) -> Seen | None:
    """Estimate the cameras of a group's candidates; None when no latent moves (a lone start image).

    Args:
        estimator: of camera paths.
        group: the candidates.
        least: smallest confidence of a trusted step.
        every: frames per step; a whole latent when None. A latent's label holds for all of its steps.
    """
    frames, actions = group.transitions()
    labels_K = actions.cameras.labels_K
    if len(labels_K) == 0:
        return None
    every = every or group.frames_per_latent
    path = estimator(frames, group.actions.cameras.intrinsics_K4[0], every)
    labels_S = labels_K.cpu().repeat_interleave(group.frames_per_latent // every)
    return Seen(path, path.motion_VS4(), path.confidence_VS >= least, labels_S)


def calibrated_thresholds(
    paths: Sequence[CameraPath], labels: Sequence[Tensor], world: LabelThresholds
) -> LabelThresholds:
    """The world's thresholds with ``move`` in the estimator's unit: one number, fitted once on known videos.

    It is the length that best separates steps with a translation from steps without. It is the midpoint of the two
    neighbouring measured lengths. Angles need no calibration, as every estimator measures them in degrees.

    Args:
        paths: of videos with known motion (engine videos, recordings), one video each (V = 1).
        labels: int64 (S,) for each video, the actual motion.
        world: thresholds of the world.

    Raises:
        ValueError: when the videos lack either steps that move or steps that do not.
    """
    length = torch.cat([p.motion_VS4()[0, :, :2].norm(dim=-1) for p in paths])
    moving = torch.cat([split_label(label)[0] > 0 for label in labels])
    if bool(moving.all()) or not bool(moving.any()):
        raise ValueError("calibration needs steps that move and steps that do not")
    order = length.argsort()
    length, moving = length[order], moving[order]
    # Balanced accuracy of calling the n shortest steps still and all others moving.
    still_share = (~moving).double().cumsum(0) / (~moving).sum()
    moving_share = 1 - moving.double().cumsum(0) / moving.sum()
    best = int((still_share + moving_share)[:-1].argmax())
    return replace(world, move=float((length[best] + length[best + 1]) / 2))


def seen_labels(seen: Seen, thresholds: LabelThresholds) -> Tensor:
    """Composite action of every step, int64 (G, S)."""
    return label_from_motion(seen.motion_GS4, thresholds)
