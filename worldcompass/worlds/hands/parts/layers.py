"""Parts of a picture as they were cut out, and where they are now.

A part is cut out once and moved at once: however far it came and however often the world went on from its own
pictures, it stays as sharp as at first. Where it is now follows from its outline, which latents hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from worldcompass.worlds.hands.facts import CAMERA_FOVY_DEG, FRAME_SIZE
from worldcompass.worlds.hands.view import camera_axes
from worldcompass.worlds.small.interpolation import pixel_centres, sample

LEAST = 8.0  # pixels of an outline from which on a part is there
EDGE = 0.5  # of an outline, where a part ends; only pixels beside such ones count
ROUNDS = 2  # in which a place is corrected for what a part loses at the picture's border


def cut_out(pictures_N3hw: Tensor, outlines_NLhw: Tensor) -> Tensor:
    """Colours times share, and the share of each pixel, of L parts; (N, L, 4, h, w).

    Args:
        pictures_N3hw: that show them.
        outlines_NLhw: which pixels are whose, 0 to 1.
    """
    share = outlines_NLhw.clamp(0, 1)[:, :, None]
    return torch.cat([pictures_N3hw[:, None].clamp(0, 1) * share, share], 2)


def middles(outlines_NLhw: Tensor) -> tuple[Tensor, Tensor]:
    """The middle of each outline in pixels right and down (N, L, 2), and its size in pixels (N, L)."""
    near = functional.max_pool2d(outlines_NLhw, 3, 1, 1) > EDGE
    mass = (outlines_NLhw.clamp(0, 1) * near).flatten(2)
    size = mass.sum(2)
    middle = mass @ pixel_centres(outlines_NLhw).flatten(0, 1) / size.clamp_min(1e-6)[..., None]
    return middle, size


def offsets(first_NLhw: Tensor, now_NLhw: Tensor) -> Tensor:
    """How far parts have come since they were cut out, pixels right and down; (N, L, 2).

    A part that one of the two does not show has not moved.
    """
    (begun, size), (now, left) = middles(first_NLhw), middles(now_NLhw)
    shown = ((size > LEAST) & (left > LEAST))[..., None]
    away = torch.where(shown, now - begun, 0)
    for _ in range(ROUNDS):
        there, _ = middles(shifted(first_NLhw.flatten(0, 1)[:, None], away.flatten(0, 1)).view_as(first_NLhw))
        away = away + torch.where(shown, now - there, 0)
    return away


def shifted(pictures_Nchw: Tensor, offsets_N2: Tensor, lean_N: Tensor | None = None) -> Tensor:
    """Pictures moved by so many pixels, by cubes; their borders go on.

    Args:
        pictures_Nchw: to move.
        offsets_N2: right and down.
        lean_N: pixels to the right for each pixel upwards from the middle of the picture, if they lean.
    """
    centres = pixel_centres(pictures_Nchw)
    place = centres - offsets_N2[:, None, None]
    if lean_N is not None:
        across = lean_N[:, None, None] * (pictures_Nchw.shape[2] / 2 - place[..., 1])
        place = torch.stack([place[..., 0] - across, place[..., 1]], -1)
    return sample(pictures_Nchw, place[:, None], "bicubic")[:, 0]


def _vanishing_row() -> float:
    """The row, from the middle of the picture downwards, at which all that is upright meets; pixels."""
    _, up, back = camera_axes()
    focal = 0.5 * FRAME_SIZE[0] / math.tan(math.radians(CAMERA_FOVY_DEG) / 2)
    return float(focal * up[2] / back[2])


VANISHING = _vanishing_row()


def lean_of(place_N2: Tensor) -> Tensor:
    """How far what stands upright at a place leans to the right for each pixel upwards; (N,)."""
    right, down = (place_N2 - FRAME_SIZE[0] / 2).unbind(-1)
    return right / (VANISHING - down)


def laid(ground_N3hw: Tensor, moved_NL4hw: Tensor, order_NL: Tensor | None = None) -> Tensor:
    """Parts on a ground, one over the other; (N, 3, h, w).

    Args:
        ground_N3hw: below all of them.
        moved_NL4hw: see ``cut_out``, where they belong.
        order_NL: of their laying, if it is another one than theirs.
    """
    picture = ground_N3hw
    for rank in range(moved_NL4hw.shape[1]):
        own = moved_NL4hw[:, rank]
        if order_NL is not None:
            own = moved_NL4hw.gather(
                1, order_NL[:, rank, None, None, None, None].expand_as(moved_NL4hw[:, :1])
            )[:, 0]
        picture = picture * (1 - own[:, 3:]) + own[:, :3]
    return picture


def by_depth(cut_NL4hw: Tensor, offsets_NL2: Tensor) -> Tensor:
    """The order in which things are laid: what reaches farther down in the picture is nearer; int64 (N, L)."""
    share = cut_NL4hw[:, :, 3]
    rows = torch.arange(share.shape[2], device=share.device, dtype=share.dtype)
    foot = torch.where(share.amax(3) > EDGE, rows, -1).amax(2) + offsets_NL2[..., 1]
    return foot.argsort(1)
