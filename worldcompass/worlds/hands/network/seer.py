"""What a picture of the Hands world is made of: the empty table, the things on it, and who covers which pixel.

A network takes one picture apart, once for each video: the start image. It learns from the engine, which draws the
same moment again without the gripper and without anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.facts import THINGS
from worldcompass.worlds.hands.network.state import GONE, State
from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.small.autoencoder import Residual
from worldcompass.worlds.small.interpolation import pixel_centres

GRIDS = (64, 96, 128, 128)  # channels of cells of 2, 4, 8 and 16 pixels
FINEST = 2  # pixels of a cell of the finest grid
GATE_BORN = -2.0  # as a logit: most of a picture shows the table
OUTPUTS = 2 * (3 + 1) + len(PARTS)
LOOKED_AT = 1  # the grid whose features tell where parts are
PLACE_WIDTH = 192
PLACE_UNIT = 0.1  # metres
LEAST = 8.0  # pixels of an outline from which on a part is there


@dataclass(frozen=True)
class Apart:
    """Pictures taken apart."""

    table_N3hw: Tensor
    """Without gripper, things and shadows."""
    things_N3hw: Tensor
    """Without the gripper."""
    logits_NLhw: Tensor
    """Of outlines, before their sigmoid."""
    state: State
    """Where everything is; nothing moves, as a single picture does not tell."""

    @property
    def outlines_NLhw(self) -> Tensor:
        """How much of each pixel each of ``PARTS`` covers, 0 to 1."""
        return self.logits_NLhw.sigmoid()


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
        told = 2 * GRIDS[LOOKED_AT] + 3 * len(PARTS)
        self.thing_place = nn.ModuleList(_perceptron(told, 6) for _ in THINGS)
        self.grip_place = _perceptron(told + 2 * GRIDS[LOOKED_AT], 4)

    def forward(self, pictures_N3hw: Tensor) -> Apart:
        """Take pictures about [0, 1] apart."""
        x = self.stem(functional.pixel_unshuffle(pictures_N3hw - 0.5, FINEST))
        kept = []
        for index, block in enumerate(self.down):
            x = block(self.coarser[index - 1](x) if index else x)
            kept.append(x)
        for index in reversed(range(len(self.finer))):
            x = self.up[index](self.finer[index](functional.silu(x)) + kept[index])
            if index == LOOKED_AT:
                features = x
        out = functional.pixel_shuffle(self.head(functional.silu(x)).float(), FINEST)
        table, things = (
            torch.lerp(pictures_N3hw, own[:, :3] + 0.5, own[:, 3:].sigmoid())
            for own in out[:, :8].split(4, 1)
        )
        with torch.autocast(out.device.type, enabled=False):  # centimetres need more digits
            state = self._state(features.float(), out[:, 8:].sigmoid())
        return Apart(table, things, out[:, 8:], state)

    def _state(self, features_Ncyx: Tensor, outlines_NLhw: Tensor) -> State:
        """Where everything is, from features within each outline and from where all outlines are."""
        cells = functional.adaptive_avg_pool2d(
            outlines_NLhw, (features_Ncyx.shape[2], features_Ncyx.shape[3])
        ).flatten(2)
        own = cells @ features_Ncyx.flatten(2).transpose(1, 2) / cells.sum(2, keepdim=True).clamp_min(1e-3)
        size = outlines_NLhw.sum((2, 3))
        middle = outlines_NLhw.flatten(2) @ pixel_centres(outlines_NLhw).flatten(0, 1)
        middle = middle / size.clamp_min(1)[..., None] / (outlines_NLhw.shape[2] / 2) - 1
        whole = torch.cat([features_Ncyx.mean((2, 3)), middle.flatten(1), size.sqrt() / 10], 1)
        grip = self.grip_place(torch.cat([whole, own[:, len(THINGS) :].flatten(1)], 1))
        things = torch.stack([f(torch.cat([whole, own[:, i]], 1)) for i, f in enumerate(self.thing_place)], 1)
        here = (size[:, : len(THINGS)] > LEAST)[..., None]
        upright = things.new_tensor([0.0, 0.0, 1.0])
        up = torch.where(here, functional.normalize(things[..., 3:] + upright, dim=-1), upright)
        place = torch.where(here, PLACE_UNIT * things[..., :3], things.new_tensor([0.0, 0.0, GONE]))
        return State(PLACE_UNIT * grip, place, up, torch.zeros_like(place))


def _perceptron(told: int, numbers: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(told, PLACE_WIDTH), nn.SiLU(), nn.Linear(PLACE_WIDTH, PLACE_WIDTH), nn.SiLU(),
        nn.Linear(PLACE_WIDTH, numbers),
    )  # fmt: skip
