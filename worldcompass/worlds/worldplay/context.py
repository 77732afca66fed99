"""What the network is told beside the latents: noise levels, and which finished latents it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.geometry import wrap_degrees
from worldcompass.worlds.worldplay.poses import exactly, rigid_inverse

# What remembered latents declare though no noise is added to them: stabilization level 15, counted from 0.
STABILIZATION_TIMESTEP = 14.0
NUM_POINTS = 50_000


def timesteps(sigma: Tensor) -> Tensor:
    """The network's timestep of a noise level, as in WorldPlay's inference."""
    return 1000 * sigma.float()


def whole_timesteps(sigma: Tensor) -> Tensor:
    """The timestep cut to a whole number, as in WorldCompass's training; int64."""
    return timesteps(sigma).long()


@dataclass(frozen=True)
class MemoryRule:
    """Which finished latents the coming chunk attends to."""

    num_latents: int = 20
    """All of them up to this many; then as many are chosen: recent ones, first ones, one stretch."""
    num_recent: int = 12
    """The last ones, always."""
    num_first: int = 4
    """The video's first ones, always."""
    chunk: int = 4
    """Latents of the coming chunk, and of the stretch that is retrieved."""
    fov_deg: tuple[float, float] = (60.0, 35.0)
    """Full angles of view, horizontal and vertical."""
    radius: float = 8.0
    """How far a camera sees, in scene units."""


MEMORY_8B = MemoryRule()
MEMORY_5B = MemoryRule(num_latents=16, num_first=0)


def points_in_view(
    generator: torch.Generator, rule: MemoryRule = MEMORY_8B, num_points: int = NUM_POINTS
) -> Tensor:
    """Points of a ball around a camera that it sees, uniform by volume; float32 (N, 3), OpenCV axes."""
    direction = torch.randn(num_points, 3, generator=generator)
    distance = rule.radius * torch.rand(num_points, 1, generator=generator) ** (1 / 3)
    return keep_in_view(distance * direction / direction.norm(dim=-1, keepdim=True), rule)


def keep_in_view(points_N3: Tensor, rule: MemoryRule = MEMORY_8B) -> Tensor:
    """Those points that a camera at the origin, looking along +z, sees."""
    return points_N3[_in_view(points_N3, points_N3.new_tensor([0.0, 0.0, 1.0]), rule)]


def overlap(query_44: Tensor, history_M44: Tensor, points_N3: Tensor, rule: MemoryRule = MEMORY_8B) -> Tensor:
    """How much of what one camera sees others saw; (M,) from 0 to 1.

    Args:
        query_44: ``world_from_camera`` of the camera.
        history_M44: of the others.
        points_N3: what a camera sees, in its own frame, see ``points_in_view``.
        rule: angle of view and radius. Roll is ignored, as in WorldPlay.
    """
    with exactly(query_44):
        relative = rigid_inverse(query_44) @ history_M44
    offset_MN3 = points_N3.to(relative.dtype) - relative[:, None, :3, 3]
    seen = _in_view(offset_MN3, relative[:, None, :3, 2], rule) & (offset_MN3.norm(dim=-1) < rule.radius)
    return seen.sum(-1) / max(len(points_N3), 1)


def select_memory(
    world_from_camera_M44: Tensor, start: int, points_N3: Tensor, rule: MemoryRule = MEMORY_8B
) -> list[int]:
    """Finished latents that the chunk from latent ``start`` on attends to, in the order of time.

    Beyond ``num_latents`` these are the recent ones, the video's first, and the one older stretch whose views
    overlap most with the coming poses (the earliest of equals). Their number is where the chunk's positions start.

    Args:
        world_from_camera_M44: poses of at least the latents up to the end of the chunk.
        start: the chunk's first latent.
        points_N3: see ``points_in_view``.
        rule: the sizes.
    """
    if start <= rule.num_latents:
        return list(range(start))
    oldest_recent = start - rule.num_recent
    stretches = range(rule.num_first, oldest_recent, rule.chunk)
    coming = world_from_camera_M44[start : start + rule.chunk]
    overlap_QM = torch.stack(
        [overlap(pose, world_from_camera_M44[:start], points_N3, rule) for pose in coming]
    )
    nearness = _nearness(overlap_QM, stretches)
    best = stretches[nearness.index(max(nearness))]
    return sorted({*range(rule.num_first), *range(best, best + rule.chunk), *range(oldest_recent, start)})


def _nearness(overlap_QM: Tensor, stretches: Sequence[int]) -> list[float]:
    """Mean overlap of each stretch's first and third latent with the coming ones."""
    first = torch.tensor(stretches, device=overlap_QM.device)
    return ((overlap_QM[:, first] + overlap_QM[:, first + 2]) / 2).mean(0).tolist()


def _in_view(offset_N3: Tensor, forward_3: Tensor, rule: MemoryRule) -> Tensor:
    """Whether points, relative to a camera that looks along ``forward_3``, lie within its angles of view."""
    angles = zip(_angles_deg(offset_N3), _angles_deg(forward_3), rule.fov_deg, strict=True)
    inside = [wrap_degrees(point - axis).abs() < fov / 2 for point, axis, fov in angles]
    return inside[0] & inside[1]


def _angles_deg(vector_3: Tensor) -> tuple[Tensor, Tensor]:
    """Azimuth, and elevation along y, of vectors in OpenCV axes."""
    x, y, z = vector_3.unbind(-1)
    return torch.atan2(x, z).rad2deg(), torch.atan2(y, torch.hypot(x, z)).rad2deg()
