"""Shared parts of adapters to third-party networks: clear errors when they are missing, and their camera paths."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from worldcompass.errors import UserError
from worldcompass.geometry import relative_pose
from worldcompass.rewards.cameras import CameraPath, steps_of

PATCH = 14  # pixels: frames of these networks are whole patches

# Errors of loaders on damaged or unrelated files.
WRONG_WEIGHTS = (
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def need_module(name: str, what: str, install: str) -> ModuleType:
    """Import a third-party module.

    Args:
        name: of the module.
        what: the part of this project that needs it, for the message.
        install: how to install it, for the message.

    Raises:
        UserError: when it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as why:
        raise UserError(f"{what} needs the Python module {name} ({why}): {install}") from why


def need_weights(path: str | Path, what: str, get: str) -> Path:
    """The path of a file or folder of weights.

    Args:
        path: to check.
        what: the network, for the message.
        get: how to get the weights, for the message.

    Raises:
        UserError: when it does not exist.
    """
    if not Path(path).exists():
        raise UserError(f"{what} found no weights at {path}: {get}")
    return Path(path)


@contextmanager
def loading(what: str, path: Path, get: str) -> Iterator[None]:
    """Turn a loader's errors inside the block into one sentence for the user.

    Raises:
        UserError: when weights are damaged, incomplete or for another network.
    """
    try:
        yield
    except WRONG_WEIGHTS as why:
        first = next(iter(str(why).strip().splitlines()), type(why).__name__)
        raise UserError(f"{what} cannot use the weights at {path} ({first}): {get}") from why


def fitted(frames_F3hw: Tensor, width: int) -> Tensor:
    """uint8 frames as float32 in [0, 1], ``width`` wide, the height the nearest whole number of patches."""
    height = max(PATCH, round(frames_F3hw.shape[-2] * width / frames_F3hw.shape[-1] / PATCH) * PATCH)
    size = (height, width)
    return interpolate(frames_F3hw.float() / 255, size, mode="bicubic", antialias=True).clamp(0, 1)


def as_path(
    world_from_camera_VF44: Tensor,
    matrices_VF33: Tensor,
    size: tuple[int, int],
    confidence_VF: Tensor,
    every: int,
) -> CameraPath:
    """The cameras of V videos of F frames as a path that starts at the identity.

    Args:
        world_from_camera_VF44: poses of all frames.
        matrices_VF33: camera matrices in pixels of frames of ``size`` (height, width).
        size: of the frames that the network saw.
        confidence_VF: the network's mean per-pixel confidence of each frame, 1 (a guess) to infinity. A step gets
            ``1 - 1 / c`` of the less certain of its two frames, without calibration.
        every: frames per step.
    """
    steps_of(world_from_camera_VF44[..., 0], every)
    poses = world_from_camera_VF44[:, ::every].float().cpu()
    matrices = matrices_VF33[:, ::every].float().cpu()
    height, width = size
    parts = [(0, 0, width), (1, 1, height), (0, 2, width), (1, 2, height)]
    intrinsics = torch.stack([matrices[..., row, column] / length for row, column, length in parts], -1)
    confidence = 1 - 1 / confidence_VF[:, ::every].float().cpu().clamp_min(1)
    return CameraPath(
        relative_pose(poses[:, :1].expand_as(poses), poses),
        intrinsics,
        torch.minimum(confidence[:, :-1], confidence[:, 1:]),
    )


def whole_matrix(rows_34: Tensor) -> Tensor:
    """Poses of shape (..., 3, 4) or (..., 4, 4) as (..., 4, 4)."""
    bottom = torch.tensor([0.0, 0, 0, 1], device=rows_34.device).expand(*rows_34.shape[:-2], 1, 4)
    return torch.cat([rows_34[..., :3, :].float(), bottom], -2)
