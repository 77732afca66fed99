"""Parts of a picture as they were cut out, and where they are now.

A part is cut out once and moved at once: however far it came and however often the world went on from its own
pictures, it stays as sharp as at first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldcompass.worlds.hands.network.camera import seen_at, shear_of, tilt_of
from worldcompass.worlds.small.interpolation import pixel_centres, sample

LEAST_SEEN = 1.0  # pixels of a part from which its colour is known


@dataclass(frozen=True)
class Where:
    """Where parts are in the picture, of any leading dimensions."""

    place_2: Tensor
    """Pixels right and down."""
    depth: Tensor
    """Metres along the view."""
    shear: Tensor
    """Pixels to the right for each pixel upwards, of what stands there."""
    tilt: Tensor
    """Radians to the right, more than that."""

    @staticmethod
    def of(points_3: Tensor, axes_3: Tensor | None = None) -> Where:
        """Of places in metres, and the directions of axes if not all are upright."""
        place, depth = seen_at(points_3)
        tilt = torch.zeros_like(depth) if axes_3 is None else tilt_of(points_3, axes_3)
        return Where(place, depth, shear_of(points_3), tilt)

    def each(self, rows: Tensor | tuple[slice | None, ...]) -> Where:
        """Some of them."""
        return Where(self.place_2[rows], self.depth[rows], self.shear[rows], self.tilt[rows])


def cut_out(pictures_N3hw: Tensor, outlines_NLhw: Tensor, distance_NL: Tensor) -> Tensor:
    """Colours times share, and the share of each pixel, of L parts; (N, L, 4, h, w).

    Where a nearer part hides a pixel, the part has the mean colour of what is seen of it.

    Args:
        pictures_N3hw: that show them.
        outlines_NLhw: which pixels are whose, 0 to 1, also where they are hidden.
        distance_NL: of the parts from the camera.
    """
    share = outlines_NLhw.clamp(0, 1)
    nearer = (distance_NL[:, None, :] < distance_NL[:, :, None]).to(share)  # (N, part, other)
    free = (1 - nearer[..., None, None] * share[:, None]).prod(2)
    colours, seen = pictures_N3hw[:, None].clamp(0, 1), (share * free)[:, :, None]
    mean = (colours * seen).sum((3, 4), keepdim=True) / seen.sum((3, 4), keepdim=True).clamp_min(LEAST_SEEN)
    own = torch.lerp(mean, colours, free[:, :, None])
    return torch.cat([own * share[:, :, None], share[:, :, None]], 2)


def moved(parts_NLchw: Tensor, first: Where, now: Where, mode: str = "bicubic") -> Tensor:
    """Parts that were cut out at one place, at another: shifted, scaled, sheared and turned; (N, L, c, h, w).

    Args:
        parts_NLchw: see ``cut_out``; one row serves all when N is 1.
        first: where they were, (N, L) or (1, L).
        now: where they are, (N, L).
        mode: of the interpolation, which is by cubes since straight lines would blur.
    """
    rows = now.depth.shape[0]
    pixels = pixel_centres(parts_NLchw)  # (h, w, 2)
    right, down = (pixels - now.place_2[:, :, None, None]).unbind(-1)
    turn, size = (x[:, :, None, None] for x in (now.tilt - first.tilt, first.depth / now.depth))
    across, along = (  # turned back, then made upright
        (turn.cos() * right + turn.sin() * down) / size,
        (turn.cos() * down - turn.sin() * right) / size,
    )
    across = across + (now.shear - first.shear)[:, :, None, None] * along
    place = torch.stack([across, along], -1) + first.place_2[:, :, None, None]
    parts = parts_NLchw.expand(rows, -1, -1, -1, -1)
    return sample(parts.flatten(0, 1), place.flatten(0, 1)[:, None], mode)[:, 0].view_as(parts).clamp(0, 1)


def laid(ground_N3hw: Tensor, moved_NL4hw: Tensor, order_NL: Tensor | None = None) -> Tensor:
    """Parts on a ground, one over the other; (N, 3, h, w).

    Args:
        ground_N3hw: below all of them.
        moved_NL4hw: see ``cut_out``, where they belong.
        order_NL: of their laying, if it is another one than theirs.
    """
    picture = ground_N3hw
    if order_NL is not None:
        moved_NL4hw = moved_NL4hw.gather(1, order_NL[..., None, None, None].expand_as(moved_NL4hw))
    for own in moved_NL4hw.unbind(1):
        picture = picture * (1 - own[:, 3:]) + own[:, :3]
    return picture
