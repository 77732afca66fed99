"""Projective positional encoding of cameras (PRoPE, arXiv 2507.10496), in float32.

The dimensions of a head are read as groups of four, homogeneous coordinates. With the projection P of a token's
camera, queries become Pᵀq, keys and values P⁻¹k and P⁻¹v, and what a query has seen is turned back by P: attention
knows only the relative projection ``P_i P_j⁻¹`` of two cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.worlds.worldplay.poses import exactly, rigid_inverse


@dataclass(frozen=True)
class Cameras:
    """One projection per latent; tokens are ordered latent by latent."""

    image_from_world_BK44: Tensor
    world_from_image_BK44: Tensor

    def queries(self, q_BhNd: Tensor) -> Tensor:
        """Pᵀq."""
        return _apply(self.image_from_world_BK44.mT, q_BhNd)

    def keys(self, k_BhNd: Tensor) -> Tensor:
        """P⁻¹k; values are treated alike."""
        return _apply(self.world_from_image_BK44, k_BhNd)

    def seen(self, o_BhNd: Tensor) -> Tensor:
        """P o: what was attended to, back in the frame of the query's camera."""
        return _apply(self.image_from_world_BK44, o_BhNd)


def cameras(world_from_camera_BK44: Tensor, intrinsics_BK4: Tensor | None) -> Cameras:
    """Projections of posed cameras.

    Args:
        world_from_camera_BK44: rigid poses.
        intrinsics_BK4: fx, fy over the image's width and height; the principal point is left out, as in WorldPlay.
            None projects with the pose alone.
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
    with exactly(groups):
        turned = groups @ matrix_BK44.mT[:, None]
    return turned.reshape(x_BhNd.shape).to(x_BhNd.dtype)
