"""The transformer of the Hands world: it mixes what the fixed camera may see after the commands."""

from __future__ import annotations

import torch
from torch import Tensor

from worldcompass.worlds.hands.facts import FRAME_SIZE
from worldcompass.worlds.hands.network.autoencoder import CODE
from worldcompass.worlds.hands.network.views import VIEWS
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer
from worldcompass.worlds.small.transformer import Rotary, rotary_of

NUM_CONTROLS = 12  # of a command: of the latent, since the last finished one, and how many latents that is
CONFIG = MixingConfig(
    CODE.latent_shape,
    seen=3 * len(VIEWS),
    controls=NUM_CONTROLS,
    token=(2, 2),
    width=192,
    depth=6,
    head=48,
    frame_size=FRAME_SIZE,
    views=len(VIEWS),
)
PLACE_RATES = (0.2, 0.4, 0.6, 0.8, 1.1, 1.4, 1.8, 2.4)  # radians for each row or column of tokens
TIME_RATES = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05, 0.025, 0.012)  # radians for each latent


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


class HandsTransformer(MixingTransformer):
    """Views are ``views_after``, the last picture first; commands are ``HandsWorld.command``."""

    def __init__(self, code: LinearCode, config: MixingConfig = CONFIG) -> None:
        super().__init__(config, code)
