"""What every adapter of somebody else's network needs: a hint when it is missing, and its cameras as a path."""

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

# What loaders raise on files that are damaged or belong to something else.
WRONG_WEIGHTS = (
    SafetensorError, pickle.UnpicklingError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def need_module(name: str, what: str, install: str) -> ModuleType:
    """Import somebody else's module.

    Raises:
        UserError: when it is not installed, with how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as why:
        raise UserError(f"{what} needs the Python module {name} ({why}): {install}") from why


def need_weights(path: str | Path, what: str, get: str) -> Path:
    """A file or folder of weights that must be there.

    Raises:
        UserError: when it is not.
    """
    if not Path(path).exists():
        raise UserError(f"{what} found no weights at {path}: {get}")
    return Path(path)


@contextmanager
def loading(what: str, path: Path, get: str) -> Iterator[None]:
    """Inside, what goes wrong with somebody else's weights becomes one sentence.

    Raises:
        UserError: when they are damaged, incomplete or of another network.
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
    world_from_camera_VF44: Tensor, matrices_VF33: Tensor, size: tuple[int, int], sure_VF: Tensor, every: int
) -> CameraPath:
    """The cameras of V videos of F frames as a path with the first pose as identity.

    Args:
        matrices_VF33: camera matrices in pixels of pictures of ``size`` (height, width).
        sure_VF: mean per-pixel confidence of each frame as these networks give it, 1 (a guess) to infinity; a
            step gets ``1 - 1 / c`` of the less certain of its two frames. Not calibrated.
    """
    steps_of(world_from_camera_VF44[..., 0], every)
    poses = world_from_camera_VF44[:, ::every].float().cpu()
    matrices = matrices_VF33[:, ::every].float().cpu()
    height, width = size
    parts = [(0, 0, width), (1, 1, height), (0, 2, width), (1, 2, height)]
    intrinsics = torch.stack([matrices[..., row, column] / length for row, column, length in parts], -1)
    sure = 1 - 1 / sure_VF[:, ::every].float().cpu().clamp_min(1)
    return CameraPath(
        relative_pose(poses[:, :1].expand_as(poses), poses),
        intrinsics,
        torch.minimum(sure[:, :-1], sure[:, 1:]),
    )


def whole_matrix(rows_34: Tensor) -> Tensor:
    """(..., 3, 4) or (..., 4, 4) as (..., 4, 4)."""
    bottom = torch.tensor([0.0, 0, 0, 1], device=rows_34.device).expand(*rows_34.shape[:-2], 1, 4)
    return torch.cat([rows_34[..., :3, :].float(), bottom], -2)
