"""The transformer of the Hands world between the two halves of a U-Net that mixes views pixel by pixel.

The noisy latent enters as a picture next to the views. What comes out is a guess of the clean picture: in each
pixel a mix of the views, and behind a gate a colour of its own, for what no view shows. The guess and its deviation
give the velocity (``posterior_velocity``). A new network guesses the last picture.

The halves (U-Net, arXiv 1505.04597) find outlines, which a few tokens can't; the transformer between them knows the
past and makes the latents of a chunk agree.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.facts import FRAME_SIZE
from worldcompass.worlds.hands.network.autoencoder import CODE
from worldcompass.worlds.hands.network.views import VIEWS
from worldcompass.worlds.small.heads import posterior_velocity
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.transformer import (
    ChunkTransformer,
    Inputs,
    Rotary,
    TransformerConfig,
    rotary_of,
)

NUM_CONTROLS = 12  # of a command: of the latent, since the last finished one, and how many latents that is
CONFIG = TransformerConfig(
    CODE.latent_shape, seen=3 * len(VIEWS), controls=NUM_CONTROLS, token=(2, 2), width=192, depth=6, head=48
)
FINEST = (
    2  # pixels of a cell of the finest grid; each next grid's cells are twice as large, down to the latents'
)
GRIDS = (48, 96, 128)  # channels of the grids
GROUP = 16  # channels that are normalised together
OWN = 1 + 3  # planes of a pixel after those of the views: the gate, and the colour behind it
PLACE_RATES = (0.2, 0.4, 0.6, 0.8, 1.1, 1.4, 1.8, 2.4)  # radians for each row or column of tokens
TIME_RATES = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05, 0.025, 0.012)  # radians for each latent
LAST_BORN, GATE_BORN = 5.0, -6.0  # weight of the last picture and gate before anything is learned, as logits
SPREAD_BORN = -2.0  # deviation of the first guess, before the softplus


def rotary_table(positions_BK: Tensor) -> Rotary:
    """The rotary embedding of latents at these positions in time: row, column and time of each token."""
    rows, columns = CONFIG.grid
    device, shape = positions_BK.device, (*positions_BK.shape, CONFIG.tokens)
    row, column = torch.meshgrid(
        torch.arange(rows, device=device).float(), torch.arange(columns, device=device).float(), indexing="ij"
    )
    return rotary_of(
        (row.flatten().expand(shape), PLACE_RATES),
        (column.flatten().expand(shape), PLACE_RATES),
        (positions_BK[..., None].expand(shape), TIME_RATES),
    )


class Modulated(nn.Module):
    """A residual block of two convolutions, told about the command and the noise level; born as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.between = (nn.GroupNorm(channels // GROUP, channels) for _ in range(2))
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(CONFIG.condition, 2 * channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_Ncyx: Tensor, condition_NE: Tensor) -> Tensor:
        """Maps of the same shape."""
        shift, scale = self.modulation(condition_NE)[..., None, None].chunk(2, 1)
        hidden = self.first(functional.silu(self.before(x_Ncyx)))
        hidden = torch.addcmul(shift, self.between(hidden), 1 + scale)
        return x_Ncyx + self.second(functional.silu(hidden))


class HandsTransformer(ChunkTransformer):
    """Views are ``views_after``, commands ``HandsWorld.command``; it keeps a copy of the linear code."""

    def __init__(self, code: LinearCode) -> None:
        super().__init__(CONFIG)
        self.code = deepcopy(code)

    def add_stem(self) -> None:
        """See ``ChunkTransformer``."""
        finest, coarsest = GRIDS[0], GRIDS[-1]
        rows, columns = (size // FINEST for size in FRAME_SIZE)
        self.stem = nn.Conv2d(3 + 3 * len(VIEWS), finest, 2 * FINEST, stride=FINEST, padding=FINEST // 2)
        self.where = nn.Parameter(torch.zeros(finest, rows, columns))  # things far away are smaller
        self.down = nn.ModuleList(Modulated(channels) for channels in GRIDS)
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(GRIDS))
        self.tokens = nn.Conv2d(coarsest, CONFIG.width // CONFIG.cells, 1)

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See ``ChunkTransformer``; kept are the features of every grid."""
        level = inputs.sigma_N.view(-1, 1, 1, 1)
        even = (level.square() + (1 - level).square()).sqrt()  # the deviation of a noisy latent
        picture = self.code.decode(inputs.latents_NCHW / even)
        x = self.stem(torch.cat([picture, inputs.seen_NDyx], 1) - 0.5) + self.where
        grids = []
        for index, block in enumerate(self.down):
            x = block(self.coarser[index - 1](x) if index else x, inputs.condition_NE)
            grids.append(x)
        return self._fold(self.tokens(x)), tuple(grids)

    def add_head(self) -> None:
        """See ``ChunkTransformer``."""
        finest, coarsest = GRIDS[0], GRIDS[-1]
        self.untoken = nn.Conv2d(CONFIG.width // CONFIG.cells, coarsest, 1)
        self.up = nn.ModuleList(Modulated(channels) for channels in GRIDS)
        self.finer = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(GRIDS)
        )
        patch = FINEST**2
        self.head = nn.Conv2d(finest, patch * (len(VIEWS) + OWN), 1)
        self.spread = nn.Conv2d(coarsest, 1, 1)
        self.spread_channels = nn.Parameter(torch.zeros(CODE.channels))
        for layer in (self.head, self.spread):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.spread.bias, SPREAD_BORN)  # type: ignore[arg-type]
        born = torch.zeros(len(VIEWS) + OWN, patch)
        born[VIEWS.index("last")], born[len(VIEWS)] = LAST_BORN, GATE_BORN
        self.head.bias = nn.Parameter(born.flatten())

    def leave(self, tokens_NTD: Tensor, kept: tuple[Tensor, ...], inputs: Inputs) -> Tensor:
        """See ``ChunkTransformer``."""
        x = self.up[-1](kept[-1] + self.untoken(self._unfold(tokens_NTD)), inputs.condition_NE)
        spread = functional.softplus(self.spread(functional.silu(x)).float())
        spread = spread * self.spread_channels.exp()[:, None, None]
        for index in reversed(range(len(self.finer))):
            x = self.up[index](self.finer[index](x) + kept[index], inputs.condition_NE)
        planes = functional.pixel_shuffle(self.head(functional.silu(x)).float(), FINEST)
        mean = self.code.encode(_mixed(planes, inputs.seen_NDyx))
        level = inputs.sigma_N.float().view(-1, 1, 1, 1)
        return posterior_velocity(inputs.latents_NCHW.float(), mean, spread, level)


def _mixed(planes_Nchw: Tensor, seen_NDhw: Tensor) -> Tensor:
    """Pictures (N, 3, h, w) out of views: their weights, the gate, and the colour behind it in each pixel."""
    weights, gate, colour = planes_Nchw.split((len(VIEWS), 1, 3), 1)
    views = seen_NDhw.unflatten(1, (len(VIEWS), 3))
    mixed = (weights.softmax(1)[:, :, None] * views).sum(1)
    return torch.lerp(mixed, colour + 0.5, gate.sigmoid())
