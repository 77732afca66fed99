"""The transformer of the Hands world: its ends look at pictures in cells of 4 pixels and mix views pixel by pixel.

The noisy latent enters as a picture next to the views. What comes out is a guess of the clean picture: in each
pixel a mix of the views, and behind a gate a colour of its own, for what no view shows. The guess and its deviation
give the velocity (``posterior_velocity``). A new network guesses the last picture.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.network.autoencoder import CODE
from worldcompass.worlds.hands.network.views import VIEWS
from worldcompass.worlds.small.autoencoder import Residual
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
FINE = 48  # channels of the networks on the fine grid
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


class HandsTransformer(ChunkTransformer):
    """Views are ``views_after``, commands ``HandsWorld.command``; it keeps a copy of the linear code."""

    def __init__(self, code: LinearCode) -> None:
        super().__init__(CONFIG)
        self.code = deepcopy(code)

    def add_stem(self) -> None:
        """See ``ChunkTransformer``."""
        patch, cell = 3 * CODE.fine_cell**2, CONFIG.width // CONFIG.cells
        self.stem = nn.Conv2d(patch, FINE, 1)
        self.stem_views = nn.Conv2d(patch * len(VIEWS), FINE, 1, bias=False)
        self.stem_more = Residual(FINE)
        self.coarse = nn.Conv2d(FINE, cell, 2, stride=2)

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See ``ChunkTransformer``; kept are the features on the fine grid and at the latent's resolution."""
        level = inputs.sigma_N.view(-1, 1, 1, 1)
        even = (level.square() + (1 - level).square()).sqrt()  # the deviation of a noisy latent
        picture = self.code.decode(inputs.latents_NCHW / even)
        noisy, seen = (
            functional.pixel_unshuffle(x - 0.5, CODE.fine_cell) for x in (picture, inputs.seen_NDyx)
        )
        fine = self.stem_more(self.stem(noisy) + self.stem_views(seen))
        cells = self.coarse(functional.silu(fine))
        return functional.pixel_unshuffle(cells, CONFIG.token[0]).flatten(2).transpose(1, 2), (fine, cells)

    def add_head(self) -> None:
        """See ``ChunkTransformer``."""
        cell, patch = CONFIG.width // CONFIG.cells, CODE.fine_cell**2
        self.widen = nn.Conv2d(2 * cell, 4 * FINE, 1)
        self.fine_condition = nn.Linear(CONFIG.condition, FINE)
        self.fine = nn.Sequential(Residual(FINE), Residual(FINE), nn.SiLU())
        self.head = nn.Conv2d(FINE, patch * (len(VIEWS) + OWN), 1)
        self.spread = nn.Conv2d(FINE, 1, 2, stride=2)
        self.spread_channels = nn.Parameter(torch.zeros(CODE.channels))
        for layer in (self.head, self.fine_condition, self.spread):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.spread.bias, SPREAD_BORN)  # type: ignore[arg-type]
        born = torch.zeros(len(VIEWS) + OWN, patch)
        born[VIEWS.index("last")], born[len(VIEWS)] = LAST_BORN, GATE_BORN
        self.head.bias = nn.Parameter(born.flatten())

    def leave(
        self, tokens_NTD: Tensor, kept: tuple[Tensor, ...], condition_NE: Tensor, inputs: Inputs
    ) -> Tensor:
        """See ``ChunkTransformer``."""
        fine, cells = kept
        coarse = functional.pixel_shuffle(
            tokens_NTD.transpose(1, 2).unflatten(-1, CONFIG.grid), CONFIG.token[0]
        )
        up = functional.pixel_shuffle(self.widen(functional.silu(torch.cat([coarse, cells], 1))), 2)
        up = self.fine(up + fine + self.fine_condition(condition_NE)[..., None, None])
        planes = functional.pixel_shuffle(self.head(up).float(), CODE.fine_cell)
        mean = self.code.encode(_mixed(planes, inputs.seen_NDyx))
        spread = functional.softplus(self.spread(up).float()) * self.spread_channels.exp()[:, None, None]
        level = inputs.sigma_N.float().view(-1, 1, 1, 1)
        return posterior_velocity(inputs.latents_NCHW.float(), mean, spread, level)


def _mixed(planes_Nchw: Tensor, seen_NDhw: Tensor) -> Tensor:
    """Pictures (N, 3, h, w) out of views: their weights, the gate, and the colour behind it in each pixel."""
    weights, gate, colour = planes_Nchw.split((len(VIEWS), 1, 3), 1)
    views = seen_NDhw.unflatten(1, (len(VIEWS), 3))
    mixed = (weights.softmax(1)[:, :, None] * views).sum(1)
    return torch.lerp(mixed, colour + 0.5, gate.sigmoid())
