"""What the fixed camera makes of places: pixels, distances, and how what stands there leans."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE
from worldcompass.worlds.hands.view import SUN, camera_position, projection

NEARBY = 0.03  # metres along an axis, to see where it points to in the picture


@cache
def _matrices() -> tuple[Tensor, Tensor]:
    return torch.from_numpy(projection(FRAME_SIZE[0])).float(), torch.from_numpy(camera_position()).float()


_matrices()  # now: the first to ask may be a plan's trace, whose tensors have no data


def seen_at(points_3: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels right and down (..., 2) from the picture's corner, and distance along the view (...,) in metres.

    Args:
        points_3: places in metres, (..., 3).
    """
    matrix, camera = (x.to(points_3) for x in _matrices())
    across, up, depth = ((points_3 - camera) @ matrix.T).unbind(-1)
    place = torch.stack([across / depth, FRAME_SIZE[0] - 1 - up / depth], -1)
    return place + 0.5, depth


def shear_of(points_3: Tensor) -> Tensor:
    """How many pixels to the right what stands upright goes for each pixel upwards; (...,)."""
    foot, _ = seen_at(points_3)
    head, _ = seen_at(points_3 + points_3.new_tensor([0, 0, NEARBY]))
    right, down = (head - foot).unbind(-1)
    return -right / down


def tilt_of(points_3: Tensor, axes_3: Tensor) -> Tensor:
    """By how much an axis leans to the right in the picture more than what stands upright, radians; (...,)."""
    foot, _ = seen_at(points_3)
    head, _ = seen_at(points_3 + NEARBY * axes_3)
    upright, _ = seen_at(points_3 + points_3.new_tensor([0, 0, NEARBY]))
    length = (upright - foot).norm(dim=-1)
    leans, stands = (((x - foot)[..., 0] / length).clamp(-0.99, 0.99).asin() for x in (head, upright))
    return leans - stands


def shaded_at(points_3: Tensor) -> Tensor:
    """The place on the table where the shadow of a point falls; (..., 3)."""
    height = points_3[..., 2:].clamp_min(0)
    return torch.cat([points_3[..., :2] + height * points_3.new_tensor(SUN), torch.zeros_like(height)], -1)
