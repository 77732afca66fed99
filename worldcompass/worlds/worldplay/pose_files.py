"""Camera trajectories in the official JSON form, one pose per latent: ``{"0": {"extrinsic": 4x4, "K": 3x3}}``.

A file may hold any number of poses (the official samples hold 33), or a list of trajectories (as the released
``prepare_custom_action.py`` writes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldcompass.errors import UserError
from worldcompass.runs.atomic import write_json
from worldcompass.runs.reading import read_json, reason
from worldcompass.types import CameraMoves
from worldcompass.worlds.open.poses import (
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    labels_from_cameras,
    normalised_intrinsics,
)

CHUNK = 4  # latents; a trajectory is made of whole chunks
CONVENTION = (
    "read as camera-to-world poses in OpenCV axes (x right, y down, z forward); if you expected another path, the"
    " file holds world-to-camera poses or other axes"
)
# Largest error of a rotation, per entry of its product with its transpose; three digits suffice.
RIGID = 2e-3


def read_poses(path: Path) -> CameraMoves:
    """A trajectory with the labels of its motion; poses are neither moved nor scaled.

    Raises:
        UserError: when the file cannot be read, or a pose is missing or not rigid.
    """
    return _trajectory(path, _read(path))


def read_pose_list(path: Path, most: int | None = None) -> list[CameraMoves]:
    """The first ``most`` trajectories of a file that holds a list of them, or the only one of another file.

    Raises:
        UserError: see ``read_poses``.
    """
    raw = _read(path)
    if raw == []:
        raise UserError(f"{path} holds an empty list: expected trajectories, one entry each")
    return (
        [_trajectory(path, part) for part in raw[:most]]
        if isinstance(raw, list)
        else [_trajectory(path, raw)]
    )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as why:
        raise UserError(
            f"{path} is not a readable pose file ({reason(why)}): make one with 'worldcompass trajectories'"
        ) from why


def _trajectory(path: Path, raw: Any) -> CameraMoves:
    if not isinstance(raw, dict) or not raw or set(raw) != {str(i) for i in range(len(raw))}:
        raise UserError(f'{path} is no pose file: expected an object with keys "0", "1", ..., one per latent')
    entries = [raw[str(i)] for i in range(len(raw))]
    poses = torch.stack([_matrix(path, i, entry, "extrinsic", 4) for i, entry in enumerate(entries)])
    pixels = torch.stack([_matrix(path, i, entry, "K", 3) for i, entry in enumerate(entries)])
    for i, (pose, camera) in enumerate(zip(poses, pixels, strict=True)):
        if not _is_rigid(pose):
            raise UserError(
                f"{path}: pose {i} is not rigid: expected a rotation and a translation, camera to world, without"
                " scale or shear"
            )
        if not bool((camera.diagonal()[:2] > 0).all() and (camera[:2, 2] > 0).all()):
            raise UserError(
                f"{path}: K of pose {i} needs a focal length and a principal point above 0, in pixels"
            )
    return CameraMoves(labels_from_cameras(poses), poses.float(), normalised_intrinsics(pixels).float())


def write_poses(
    actions: CameraMoves, path: Path, width: int = IMAGE_WIDTH, height: int = IMAGE_HEIGHT
) -> None:
    """Write one trajectory for an image of this size; the file appears only when it is complete."""
    size = torch.tensor([width, height], dtype=torch.float64)
    entries: dict[str, dict[str, list[list[float]]]] = {}
    for i in range(len(actions)):
        intrinsics = actions.intrinsics_K4[i].double()
        (fx, fy), (cx, cy) = (intrinsics[:2] * size).tolist(), (intrinsics[2:] * size).tolist()
        camera = [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]
        entries[str(i)] = {"extrinsic": actions.world_from_camera_K44[i].tolist(), "K": camera}
    write_json(path, entries)


def _matrix(path: Path, index: int, entry: Any, key: str, size: int) -> Tensor:
    try:
        matrix = torch.tensor(entry[key], dtype=torch.float64)
    except (TypeError, KeyError, ValueError, RuntimeError, OverflowError) as why:
        raise UserError(f"{path}: pose {index} has no {key} of {size}x{size} numbers") from why
    if matrix.shape != (size, size) or not bool(matrix.isfinite().all()):
        raise UserError(f"{path}: {key} of pose {index} is not {size}x{size} finite numbers")
    return matrix


def _is_rigid(pose_44: Tensor) -> bool:
    rotation, bottom = pose_44[:3, :3], pose_44.new_tensor([0.0, 0, 0, 1])
    off = float((rotation @ rotation.mT - torch.eye(3, dtype=pose_44.dtype)).abs().max())
    return off < RIGID and float(rotation.det()) > 0 and bool(torch.equal(pose_44[3], bottom))
