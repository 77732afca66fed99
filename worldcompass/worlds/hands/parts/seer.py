"""What a picture of the Hands world is made of: the empty table, the things on it, and who covers which pixel.

A network takes one picture apart, once for each video: the start image. It learns from the engine, which draws the
same moment again without the gripper and without anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.small.autoencoder import Residual

GRIDS = (64, 96, 128, 128)  # channels of cells of 2, 4, 8 and 16 pixels
FINEST = 2  # pixels of a cell of the finest grid
GATE_BORN = -2.0  # as a logit: most of a picture shows the table
OUTPUTS = 2 * (3 + 1) + len(PARTS)


@dataclass(frozen=True)
class Apart:
    """Pictures taken apart."""

    table_N3hw: Tensor
    """Without gripper, things and shadows."""
    things_N3hw: Tensor
    """Without the gripper."""
    logits_NLhw: Tensor
    """Of outlines, before their sigmoid."""

    @property
    def outlines_NLhw(self) -> Tensor:
        """How much of each pixel each of ``PARTS`` covers, 0 to 1."""
        return self.logits_NLhw.sigmoid()

    def pick(self, rows: Tensor | slice) -> Self:
        """Some of them."""
        return type(self)(self.table_N3hw[rows], self.things_N3hw[rows], self.logits_NLhw[rows])


class Seer(nn.Module):
    """A U-Net (arXiv 1505.04597): what it draws of table and things lies behind gates over the picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 * FINEST**2, GRIDS[0], 3, padding=1)
        *fine, coarsest = GRIDS
        self.down = nn.ModuleList(nn.Sequential(Residual(c), Residual(c)) for c in fine)
        self.down.append(nn.Sequential(Residual(coarsest)))
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(GRIDS))
        self.finer = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(GRIDS)
        )
        self.up = nn.ModuleList(nn.Sequential(Residual(c), Residual(c)) for c in GRIDS[:-1])
        self.head = nn.Conv2d(GRIDS[0], OUTPUTS * FINEST**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        born = torch.zeros(OUTPUTS, FINEST**2)
        born[[3, 7]], born[8:] = GATE_BORN, GATE_BORN
        self.head.bias = nn.Parameter(born.flatten())

    def forward(self, pictures_N3hw: Tensor) -> Apart:
        """Take pictures about [0, 1] apart."""
        x = self.stem(functional.pixel_unshuffle(pictures_N3hw - 0.5, FINEST))
        kept = []
        for index, block in enumerate(self.down):
            x = block(self.coarser[index - 1](x) if index else x)
            kept.append(x)
        for index in reversed(range(len(self.finer))):
            x = self.up[index](self.finer[index](functional.silu(x)) + kept[index])
        out = functional.pixel_shuffle(self.head(functional.silu(x)).float(), FINEST)
        table, things = (
            torch.lerp(pictures_N3hw, own[:, :3] + 0.5, own[:, 3:].sigmoid())
            for own in out[:, :8].split(4, 1)
        )
        return Apart(table, things, out[:, 8:])
