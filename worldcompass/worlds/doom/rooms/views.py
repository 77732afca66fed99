"""What cameras see of earlier pictures: the last one, filled from two older ones, and those two alone.

Each view has four planes, as latents do: the picture, and how near it is. The network mixes the views pixel by
pixel, so what geometry knows stays as it is. Masks say what a view really shows; elsewhere it shows what lies
beside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldcompass.worlds.doom.network.autoencoder import DoomLook
from worldcompass.worlds.doom.rooms.autoencoder import depth_plane
from worldcompass.worlds.doom.rooms.geometry import view_from
from worldcompass.worlds.doom.world import pose_distance

VIEWS = ("carried", "near", "other")
"""The last picture with its gaps filled from the other two, the older one nearest to the coming camera, and the
start where that shows something of it; else one that stands or looks elsewhere."""

PLANES = 4  # of a view
OVERLAPPING = 1.5  # distance up to which the start is looked at again, in units of ``pose_distance``
ELSEWHERE = 0.6  # distance between the two older views, in units of ``pose_distance``
FAR = 100.0  # added to the distance of older views that are no other ones


def chosen_views(poses_PM44: Tensor, target_P44: Tensor) -> tuple[Tensor, Tensor]:
    """The older latents to look at again, int64 (P,) each: the nearest one, and the start or one from elsewhere.

    Args:
        poses_PM44: cameras of the older latents, of which the first is the start.
        target_P44: the coming camera.
    """
    distance_PM = pose_distance(poses_PM44, target_P44)
    near_P = distance_PM.argmin(1)
    rows = torch.arange(len(near_P), device=near_P.device)
    apart_PM = pose_distance(poses_PM44, poses_PM44[rows, near_P])
    other_P = (distance_PM + FAR * (apart_PM < ELSEWHERE)).argmin(1)
    start_P = (distance_PM[:, 0] < OVERLAPPING) & (near_P > 0)
    return near_P, torch.where(start_P, 0, other_P)


def mixed_views(pasts: Sequence[tuple[DoomLook, Tensor, Tensor]]) -> Tensor:
    """All ``VIEWS`` for each of K cameras, four planes each, and their masks; (P, 3 * 4 + 3, K, h, w).

    Args:
        pasts: the last picture and, where there are older ones, two of them. Of each: its look (P, ...), the motion
            from its camera to the K others in nominal units (P, K, 4), and its camera's pitch (P,) in them.
    """
    seen = [_view(look, motion, pitch) for look, motion, pitch in pasts]
    (carried, covered), older = seen[0], seen[1:]
    if not older:
        nothing = torch.zeros_like(carried), torch.zeros_like(covered)
        older = [nothing, nothing]
    for planes, there in older:
        filled = (1 - covered) * there
        carried, covered = torch.lerp(carried, planes, filled), covered + filled
    shown = [carried, *(planes for planes, _ in older)]
    masks = [covered, *(there for _, there in older)]
    return torch.cat([*shown, *masks], 2).transpose(1, 2)


def _view(look: DoomLook, motion_PK4: Tensor, pitch_P: Tensor) -> tuple[Tensor, Tensor]:
    """The four planes that K cameras see of a look (P, K, 4, h, w), and their mask (P, K, 1, h, w)."""
    view = view_from(look.picture, look.nearness, motion_PK4, pitch_P)
    planes = torch.cat([view.picture.clamp(0, 1), depth_plane(view.nearness)[:, :, None]], 2)
    return planes, view.seen[:, :, None]
