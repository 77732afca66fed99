"""A transformer between the two halves of a U-Net that mixes views pixel by pixel.

The noisy latent enters as a picture next to the views. What comes out is a guess of the clean picture: in each
pixel a mix of the views, and behind a gate a colour of its own, for what no view shows. The guess and its deviation
give the velocity (``posterior_velocity``). A new network guesses the first view.

Views may have planes beside colour, such as depth: they are mixed with the same weights, behind gates of their own.
Views with masks are trusted where their masks say that they are real, as far as training leaves it so.

The halves (U-Net, arXiv 1505.04597) find outlines, which a few tokens can't; the transformer between them knows the
past and makes the latents of a chunk agree. Latents are those of a ``LinearCode``.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.small.heads import posterior_velocity
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.transformer import ChunkTransformer, Inputs, TransformerConfig

GROUP = 16  # channels that are normalised together
FIRST_BORN, GATE_BORN = 5.0, -6.0  # weight of the first view and gate before anything is learned, as logits
TRUST_BORN = 4.0  # by which a whole mask raises its view's weight and closes the gates, as logits
SPREAD_BORN = -2.0  # deviation of the first guess, before the softplus


@dataclass(frozen=True)
class MixingConfig(TransformerConfig):
    """Sizes of a mixing transformer.

    ``seen`` counts the planes of each view, and what else is seen after them; one more for each view are masks.
    """

    frame_size: tuple[int, int] = (0, 0)
    """(height, width) in pixels."""
    views: int = 1
    """Pictures that are mixed."""
    planes: int = 3
    """Of a view: colour's three, and those that a ``LinearCode`` holds beside it."""
    held: int = 0
    """Planes of the ``LinearCode`` that enter, its first ones, where those of a view are others."""
    finest: int = 2
    """Pixels of a cell of the finest grid; each next grid's cells are twice as large, down to the latents'."""
    grids: tuple[int, ...] = (64, 96, 128)
    """Channels of the grids, multiples of 16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        shown = self.planes * self.views
        if self.seen < shown:
            raise ValueError(f"{self.views} views have {shown} planes, seen says {self.seen}")
        coarsest = self.finest * 2 ** (len(self.grids) - 1)
        if tuple(size // coarsest for size in self.frame_size) != self.latent_shape[1:]:
            raise ValueError(
                f"{len(self.grids)} grids from {self.finest} pixels on end at cells of {coarsest} pixels: frames of"
                f" {self.frame_size} then have no latents of {self.latent_shape[1:]} cells"
            )

    @property
    def entering(self) -> int:
        """Planes of a noisy latent's picture."""
        return self.held or self.planes

    @property
    def gates(self) -> int:
        """One of colour, and one of each other plane."""
        return self.planes - 2

    @property
    def own(self) -> int:
        """Planes of a pixel after those of the views' weights: the gates, and what lies behind them."""
        return self.gates + self.planes

    @property
    def masked(self) -> bool:
        """Whether views have masks, which say what of them is real."""
        return self.seen == (self.planes + 1) * self.views


class Modulated(nn.Module):
    """A residual block of two convolutions, told about the command and the noise level; born as the identity."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.before, self.between = (nn.GroupNorm(channels // GROUP, channels) for _ in range(2))
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_Ncyx: Tensor, condition_NE: Tensor) -> Tensor:
        """Maps of the same shape."""
        shift, scale = self.modulation(condition_NE)[..., None, None].chunk(2, 1)
        hidden = self.first(_silu(self.before(x_Ncyx)))
        hidden = torch.addcmul(shift, self.between(hidden), 1 + scale)
        return x_Ncyx + self.second(_silu(hidden))


def _silu(own: Tensor) -> Tensor:
    """The activation of a tensor that nobody else needs, in its place when no gradient will ask for it."""
    return functional.silu(own, inplace=not torch.is_grad_enabled())


class MixingTransformer(ChunkTransformer):
    """Views (N, D, h, w) are pictures about [0, 1], some planes each, then masks; it keeps a copy of the code."""

    config: MixingConfig
    row_size = 3

    def __init__(self, config: MixingConfig, code: LinearCode) -> None:
        super().__init__(config)
        self.code = deepcopy(code)

    def add_stem(self) -> None:
        """See ``ChunkTransformer``."""
        config, grids = self.config, self.config.grids
        rows, columns = (size // config.finest for size in config.frame_size)
        planes, cell = config.entering + config.seen, config.finest
        self.stem = nn.Conv2d(planes, grids[0], 2 * cell, stride=cell, padding=cell // 2)
        self.where = nn.Parameter(torch.zeros(grids[0], rows, columns))  # things far away are smaller
        self.down = nn.ModuleList(Modulated(channels, config.condition) for channels in grids)
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(grids))
        self.tokens = nn.Conv2d(grids[-1], config.width // config.cells, 1)

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See ``ChunkTransformer``; kept are the features of every grid."""
        level = inputs.sigma_N.view(-1, 1, 1, 1)
        even = (level.square() + (1 - level).square()).sqrt()  # the deviation of a noisy latent
        x = self._stem(self.shown(inputs.latents_NCHW / even), inputs.seen_PKDyx)
        grids = []
        for index, block in enumerate(self.down):
            x = block(self.coarser[index - 1](x) if index else x, inputs.condition_NE)
            grids.append(x)
        return self._fold(self.tokens(x)), tuple(grids)

    def _stem(self, pictures_Nphw: Tensor, seen_PKDhw: Tensor) -> Tensor:
        """``stem`` of pictures and views, and ``where``; views, which a past's rows share, are convolved once."""
        own_weight, weight = self.stem.weight.tensor_split((self.config.entering,), 1)
        options = {"stride": self.stem.stride, "padding": self.stem.padding}
        views = functional.conv2d(seen_PKDhw.flatten(0, 1) - 0.5, weight, self.stem.bias, **options)
        own = functional.conv2d(pictures_Nphw - 0.5, own_weight, **options)
        shared = (views + self.where).unflatten(0, seen_PKDhw.shape[:2])[:, None]
        rows = own.unflatten(0, (len(seen_PKDhw), -1, seen_PKDhw.shape[1]))
        return (rows + shared).flatten(0, 2)

    def add_head(self) -> None:
        """See ``ChunkTransformer``."""
        config, grids = self.config, self.config.grids
        self.untoken = nn.Conv2d(config.width // config.cells, grids[-1], 1)
        self.up = nn.ModuleList(Modulated(channels, config.condition) for channels in grids)
        self.finer = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(grids)
        )
        patch = config.finest**2
        self.head = nn.Conv2d(grids[0], patch * (config.views + config.own), 1)
        self.spread = nn.Conv2d(grids[-1], 1, 1)
        self.spread_channels = nn.Parameter(torch.zeros(config.latent_shape[0]))
        for layer in (self.head, self.spread):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.spread.bias, SPREAD_BORN)  # type: ignore[arg-type]
        born = torch.zeros(config.views + config.own, patch)
        born[0], born[config.views : config.views + config.gates] = FIRST_BORN, GATE_BORN
        self.head.bias = nn.Parameter(born.flatten())
        if config.masked:
            self.trust = nn.Parameter(torch.full((config.views + config.gates,), TRUST_BORN))

    def leave(self, tokens_NTD: Tensor, kept: tuple[Tensor, ...], inputs: Inputs) -> Tensor:
        """See ``ChunkTransformer``."""
        x = self.up[-1](kept[-1] + self.untoken(self._unfold(tokens_NTD)), inputs.condition_NE)
        coarse = x
        for index in reversed(range(len(self.finer))):
            x = self.up[index](self.finer[index](x) + kept[index], inputs.condition_NE)
        planes = functional.pixel_shuffle(self.head(functional.silu(x)).float(), self.config.finest)
        if self.config.masked:
            planes = self._trusting(planes, inputs.seen_NDyx[:, -self.config.views :].float())
        return self.velocity(planes, coarse, inputs)

    def velocity(self, planes_Nchw: Tensor, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """Velocity (N, C, H, W): here of the mixture. A network that draws otherwise overrides this.

        Args:
            planes_Nchw: see ``mixed``.
            coarse_Ncyx: see ``mixable``.
            inputs: of ``enter``.
        """
        mean = self.code.encode(mixed(planes_Nchw, self.mixable(coarse_Ncyx, inputs), self.config))
        spread = functional.softplus(self.spread(functional.silu(coarse_Ncyx)).float())
        spread = spread * self.spread_channels.exp()[:, None, None] * inputs.temperature
        level = inputs.sigma_N.float().view(-1, 1, 1, 1)
        return posterior_velocity(inputs.latents_NCHW.float(), mean, spread, level)

    def _trusting(self, planes_Nchw: Tensor, masks_NVhw: Tensor) -> Tensor:
        """More weight to views where they are real; the gates heed the first view's mask."""
        gates = -masks_NVhw[:, :1].expand(-1, self.config.gates, -1, -1)
        change = self.trust[:, None, None] * torch.cat([masks_NVhw, gates], 1)
        count = change.shape[1]
        return torch.cat([planes_Nchw[:, :count] + change, planes_Nchw[:, count:]], 1)

    def shown(self, latents_NCHW: Tensor) -> Tensor:
        """The planes (N, entering, h, w) of a noisy latent that enter. A code of another kind overrides this."""
        return self.code.decode(latents_NCHW)

    def mixable(self, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """The pictures (N, p V, h, w) to mix: the views as they are. A network that moves them overrides this.

        Args:
            coarse_Ncyx: features of the coarsest grid, after the transformer.
            inputs: of ``enter``.
        """
        return inputs.seen_NDyx[:, : self.config.planes * self.config.views]


def mixed(planes_Nchw: Tensor, views_NDhw: Tensor, config: MixingConfig) -> Tensor:
    """Pictures (N, p, h, w) out of V views.

    Args:
        planes_Nchw: of each pixel the views' weights before their softmax, the gates, and what lies behind them.
        views_NDhw: D = p V planes.
        config: says p and V.
    """
    weights, gates, own = planes_Nchw.split((config.views, config.gates, config.planes), 1)
    shares, views = weights.softmax(1), views_NDhw.chunk(config.views, 1)
    shown = shares[:, :1] * views[0]
    for index in range(
        1, config.views
    ):  # one after another: all products at once would not fit into the cache
        shown = torch.addcmul(shown, shares[:, index : index + 1], views[index])
    gates = torch.cat([gates[:, :1].expand(-1, 3, -1, -1), gates[:, 1:]], 1)
    return torch.lerp(shown, own + 0.5, gates.sigmoid())
