"""Inputs of the network apart from the latents: timesteps, and the choice of finished latents as memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.devices.autocast import without_autocast
from worldcompass.geometry import rigid_inverse, wrap_degrees

# Timestep of remembered latents, which have no added noise: WorldPlay's stabilization level 15, counted from 0.
STABILIZATION_TIMESTEP = 14.0
NUM_POINTS = 50_000


def timesteps(sigma: Tensor) -> Tensor:
    """The network's timestep for a noise level, as in WorldPlay's inference."""
    return 1000 * sigma.float()


def whole_timesteps(sigma: Tensor) -> Tensor:
    """The timestep truncated to a whole number, as in WorldCompass's training; int64."""
    return timesteps(sigma).long()


@dataclass(frozen=True)
class MemoryRule:
    """The choice of finished latents to which the next chunk attends."""

    num_latents: int = 20
    """Up to this number all latents are chosen; beyond it, this number of recent, first and retrieved ones."""
    num_recent: int = 12
    """Number of most recent latents that are always chosen."""
    num_first: int = 4
    """Number of the video's first latents that are always chosen."""
    chunk: int = 4
    """Number of latents of the next chunk, and of the retrieved segment."""
    fov_deg: tuple[float, float] = (60.0, 35.0)
    """Full angles of view, horizontal and vertical."""
    radius: float = 8.0
    """Range of a camera, in scene units."""


MEMORY_8B = MemoryRule()
MEMORY_5B = MemoryRule(num_latents=16, num_first=0)


def points_in_view(
    generator: torch.Generator, rule: MemoryRule = MEMORY_8B, num_points: int = NUM_POINTS
) -> Tensor:
    """Random points in a camera's view, uniform by volume; float32 (N, 3), OpenCV axes."""
    direction = torch.randn(num_points, 3, generator=generator)
    distance = rule.radius * torch.rand(num_points, 1, generator=generator) ** (1 / 3)
    return keep_in_view(distance * direction / direction.norm(dim=-1, keepdim=True), rule)


def keep_in_view(points_N3: Tensor, rule: MemoryRule = MEMORY_8B) -> Tensor:
    """The points in view of a camera at the origin that looks along +z."""
    return points_N3[_in_view(points_N3, points_N3.new_tensor([0.0, 0.0, 1.0]), rule)]


def overlap(query_44: Tensor, history_M44: Tensor, points_N3: Tensor, rule: MemoryRule = MEMORY_8B) -> Tensor:
    """Share of one camera's view that is in the view of each other camera; (M,) from 0 to 1.

    Args:
        query_44: ``world_from_camera`` of the camera.
        history_M44: of the others.
        points_N3: points in a camera's view, in its own frame; see ``points_in_view``.
        rule: angle of view and radius. Roll is ignored, as in WorldPlay.
    """
    with without_autocast(query_44):
        relative = rigid_inverse(query_44) @ history_M44
    offset_MN3 = points_N3.to(relative.dtype) - relative[:, None, :3, 3]
    visible = _in_view(offset_MN3, relative[:, None, :3, 2], rule) & (offset_MN3.norm(dim=-1) < rule.radius)
    return visible.sum(-1) / max(len(points_N3), 1)


def select_memory(
    world_from_camera_M44: Tensor, start: int, points_N3: Tensor, rule: MemoryRule = MEMORY_8B
) -> list[int]:
    """Indices, in order of time, of the finished latents to which the chunk from latent ``start`` on attends.

    Beyond ``num_latents`` these are the recent latents, the video's first ones, and the older segment whose views
    overlap most with the next poses (the earliest of equals). The chunk's positions start at their number.

    Args:
        world_from_camera_M44: poses of all latents up to the end of the chunk, or more.
        start: index of the chunk's first latent.
        points_N3: see ``points_in_view``.
        rule: numbers of latents and the camera's view.
    """
    if start <= rule.num_latents:
        return list(range(start))
    oldest_recent = start - rule.num_recent
    segments = range(rule.num_first, oldest_recent, rule.chunk)
    next_poses = world_from_camera_M44[start : start + rule.chunk]
    overlap_QM = torch.stack(
        [overlap(pose, world_from_camera_M44[:start], points_N3, rule) for pose in next_poses]
    )
    mean_overlaps = _mean_overlaps(overlap_QM, segments)
    best = segments[mean_overlaps.index(max(mean_overlaps))]
    return sorted({*range(rule.num_first), *range(best, best + rule.chunk), *range(oldest_recent, start)})


def _mean_overlaps(overlap_QM: Tensor, segments: Sequence[int]) -> list[float]:
    """Mean overlap of each segment's first and third latent with the next poses."""
    first = torch.tensor(segments, device=overlap_QM.device)
    return ((overlap_QM[:, first] + overlap_QM[:, first + 2]) / 2).mean(0).tolist()


def _in_view(offset_N3: Tensor, forward_3: Tensor, rule: MemoryRule) -> Tensor:
    """Whether points, relative to a camera that looks along ``forward_3``, are within its angles of view."""
    angles = zip(_angles_deg(offset_N3), _angles_deg(forward_3), rule.fov_deg, strict=True)
    inside = [wrap_degrees(point - axis).abs() < fov / 2 for point, axis, fov in angles]
    return inside[0] & inside[1]


def _angles_deg(vector_3: Tensor) -> tuple[Tensor, Tensor]:
    """Azimuth, and elevation along y, of vectors in OpenCV axes."""
    x, y, z = vector_3.unbind(-1)
    return torch.atan2(x, z).rad2deg(), torch.atan2(y, torch.hypot(x, z)).rad2deg()
