"""Features of a fixed random network: a perceptual distance that needs no training and no download."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu

from worldcompass.seeding import generator_for

WIDTHS = (16, 32, 64)  # channels of the stages, each at half the resolution of the one before
FLAT = 0.1  # share of the mean size added everywhere, so that flat places do not count alone
GREY, RANGE = 127.5, 64.0  # levels of 255 that become 0 and 1


class RandomFeatures(nn.Module):
    """Convolutions with fixed random weights, orthogonal within a layer.

    Random features rank distances between pictures far from photographs more sensibly than a classifier's (Naeem et
    al., arXiv 2002.09797), and nobody can have trained against them.
    """

    def __init__(self, seed: int = 0, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise((3, *widths))]
        self.layers = nn.ModuleList(layers)
        for index, layer in enumerate(layers):
            rows = layer.weight.flatten(1)
            generator = generator_for("random features", seed, index)
            drawn = torch.randn(max(rows.shape), max(rows.shape), generator=generator)
            basis, _ = torch.linalg.qr(drawn)
            weight = (
                basis[: rows.shape[0], : rows.shape[1]] * (2 * max(1.0, rows.shape[0] / rows.shape[1])) ** 0.5
            )
            layer.weight.data.copy_(weight.reshape(layer.weight.shape))
        self.requires_grad_(False)

    def forward(self, frames_N3hw: Tensor) -> list[Tensor]:
        """Maps of each stage, (N, C, h', w') float32, from uint8 frames."""
        x, found = (frames_N3hw.float() - GREY) / RANGE, []
        for index, layer in enumerate(self.layers):
            x = leaky_relu(layer(x if index == 0 else avg_pool2d(x, 2)), 0.1)
            found.append(x)
        return found

    @torch.no_grad()
    def distance(self, frames_N3hw: Tensor, references_M3hw: Tensor) -> Tensor:
        """Mean over stages of the squared difference of features over their mean size, 0 to about 2; (N,).

        Args:
            frames_N3hw: several times the M references, in their order.
            references_M3hw: of the frames.
        """
        pairs = zip(self(frames_N3hw), self(references_M3hw), strict=True)
        return torch.stack([_relative(a.unflatten(0, (-1, len(b))), b) for a, b in pairs]).mean(0).flatten()

    @torch.no_grad()
    def pooled(self, frames_N3hw: Tensor) -> Tensor:
        """Mean and deviation of every channel of every stage, (N, 2 * sum of widths)."""
        maps = [x.flatten(2) for x in self(frames_N3hw)]
        return torch.cat([part for x in maps for part in (x.mean(-1), x.std(-1))], 1)


def _relative(a: Tensor, b: Tensor) -> Tensor:
    """``|a - b|^2 / ((|a|^2 + |b|^2) / 2 + floor)`` per place, averaged; unlike an angle it sees contrast."""
    size_a, size_b = (x.square().sum(-3) for x in (a, b))
    floor = FLAT * size_b.mean((-2, -1), keepdim=True) + 1e-6
    return ((a - b).square_().sum(-3) / ((size_a + size_b) / 2 + floor)).mean((-2, -1))
