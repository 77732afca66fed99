"""Projective positional encoding of cameras (PRoPE, arXiv 2507.10496), in float32.

Each group of four dimensions of a head is a vector of homogeneous coordinates. With the projection P of a token's
camera, queries become Pᵀq, keys and values P⁻¹k and P⁻¹v, and the output of attention is multiplied by P. Therefore
attention depends only on the relative projection ``P_i P_j⁻¹`` of two cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.devices.autocast import without_autocast
from worldcompass.geometry import rigid_inverse


@dataclass(frozen=True)
class Cameras:
    """One projection per latent; tokens are ordered latent by latent."""

    image_from_world_BK44: Tensor
    world_from_image_BK44: Tensor

    def queries(self, q_BhNd: Tensor) -> Tensor:
        """Queries Pᵀq."""
        return _apply(self.image_from_world_BK44.mT, q_BhNd)

    def keys(self, k_BhNd: Tensor) -> Tensor:
        """Keys P⁻¹k; also used for values."""
        return _apply(self.world_from_image_BK44, k_BhNd)

    def outputs(self, o_BhNd: Tensor) -> Tensor:
        """Outputs P o of attention, in the frame of the query's camera."""
        return _apply(self.image_from_world_BK44, o_BhNd)


def cameras(world_from_camera_BK44: Tensor, intrinsics_BK4: Tensor | None) -> Cameras:
    """Projections of posed cameras.

    Args:
        world_from_camera_BK44: rigid poses.
        intrinsics_BK4: fx, fy over the image's width and height; the principal point is ignored, as in WorldPlay.
            None projects with the pose only.
    """
    world_from_camera = world_from_camera_BK44.float()
    camera_from_world = rigid_inverse(world_from_camera)
    if intrinsics_BK4 is None:
        return Cameras(camera_from_world, world_from_camera)
    focal = intrinsics_BK4[..., :2].float()
    focal = torch.cat([focal, torch.ones_like(focal)], -1)
    return Cameras(focal[..., :, None] * camera_from_world, world_from_camera / focal[..., None, :])


def _apply(matrix_BK44: Tensor, x_BhNd: Tensor) -> Tensor:
    """Multiply each group of four dimensions by the matrix of its token's latent."""
    count = matrix_BK44.shape[1]
    groups = x_BhNd.float().unflatten(-1, (-1, 4)).unflatten(2, (count, -1)).flatten(3, 4)
    with without_autocast(groups):
        transformed = groups @ matrix_BK44.mT[:, None]
    return transformed.reshape(x_BhNd.shape).to(x_BhNd.dtype)
