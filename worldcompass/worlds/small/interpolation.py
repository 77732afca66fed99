"""The frames between two pictures of a camera that stands still: what moved is shifted there, the rest stays.

For each frame a small network gives two flows, which fetch each pixel from the picture before and from the one
after, and a mask that says which of the two to take. A new network gives a cross-fade, and so does any network far
from everything that differs between the two pictures: what stands still does not flicker.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.small.autoencoder import CodeConfig, Residual

FLOW_PIXELS = 8.0  # that one unit of the network's flow stands for
MASK_GAIN = 4.0  # of the network's mask, so that it turns sharp early
REACH = 4  # pixels around a difference in which something may have passed
DIFFERENCE = 0.05  # of the two pictures, from which on the network alone is asked
OUTPUTS = 5  # planes of a frame: right and down into the picture before and into the one after, and the mask


class Interpolator(nn.Module):
    """Frames between pictures of a still camera; ``fine`` and ``coarse`` of the configuration are its channels."""

    def __init__(self, config: CodeConfig) -> None:
        super().__init__()
        self.count, self.cell = config.frames_per_latent - 1, config.fine_cell
        fine, coarse, patch = config.fine, config.coarse, config.fine_cell**2
        self.stem = nn.Conv2d(9 * patch, fine, 3, padding=1)
        self.first = Residual(fine)
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.coarse = nn.Sequential(Residual(coarse), Residual(coarse), nn.SiLU())
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.second = nn.Sequential(Residual(fine), Residual(fine), nn.SiLU())
        self.head = nn.Conv2d(fine, OUTPUTS * self.count * patch, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, before_B3hw: Tensor, after_B3hw: Tensor) -> Tensor:
        """The frames (B, n - 1, 3, h, w) between pictures about [0, 1]."""
        planes = torch.cat([before_B3hw - 0.5, after_B3hw - 0.5, after_B3hw - before_B3hw], 1)
        x = self.first(self.stem(functional.pixel_unshuffle(planes, self.cell)))
        coarse = self.up(self.coarse(self.down(functional.silu(x))))
        x = self.second(x + functional.pixel_shuffle(coarse, 2))
        out = functional.pixel_shuffle(self.head(x).float(), self.cell).unflatten(1, (self.count, OUTPUTS))
        shares = torch.linspace(0, 1, self.count + 2, device=out.device)[1:-1]
        mask = torch.sigmoid(MASK_GAIN * out[:, :, 4:] + shares.logit().view(-1, 1, 1, 1))
        earlier, later = _fetched(before_B3hw, out[:, :, :2]), _fetched(after_B3hw, out[:, :, 2:4])
        fade = torch.lerp(before_B3hw[:, None], after_B3hw[:, None], shares.view(-1, 1, 1, 1))
        return torch.lerp(fade, torch.lerp(earlier, later, mask), _changed(before_B3hw, after_B3hw)[:, None])


def _changed(before_B3hw: Tensor, after_B3hw: Tensor) -> Tensor:
    """Where pictures differ near by, from 0 to 1; (B, 1, h, w)."""
    difference = (after_B3hw - before_B3hw).abs().amax(1, keepdim=True)
    return (functional.max_pool2d(difference, 2 * REACH + 1, 1, REACH) / DIFFERENCE).clamp(0, 1)


def _fetched(pictures_B3hw: Tensor, flow_BN2hw: Tensor) -> Tensor:
    """N copies of each picture whose pixels come from elsewhere in it; (B, N, 3, h, w)."""
    place = pixel_centres(pictures_B3hw) + FLOW_PIXELS * flow_BN2hw.movedim(2, -1)
    return sample(pictures_B3hw, place, "bilinear")


def pixel_centres(pictures_B3hw: Tensor) -> Tensor:
    """Where each pixel of a picture lies: right and down in pixels from its corner, (h, w, 2)."""
    rows, columns = pictures_B3hw.shape[-2:]
    y, x = (torch.arange(size, device=pictures_B3hw.device) + 0.5 for size in (rows, columns))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def sample(pictures_B3hw: Tensor, place_BNyx2: Tensor, mode: str) -> Tensor:
    """N copies (B, N, 3, y, x) of each picture, fetched from places in pixels; its border goes on outside."""
    rows, columns = pictures_B3hw.shape[-2:]
    count, height = place_BNyx2.shape[1:3]
    grid = place_BNyx2 * place_BNyx2.new_tensor([2 / columns, 2 / rows]) - 1
    # The copies of one picture lie below one another in one tall grid, which saves copying the picture.
    out = functional.grid_sample(
        pictures_B3hw, grid.flatten(1, 2), mode=mode, padding_mode="border", align_corners=False
    )
    return out.unflatten(2, (count, height)).movedim(2, 1)
