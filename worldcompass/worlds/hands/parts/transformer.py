"""The transformer of the second Hands network: it says where the parts go, and draws shadows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.hands.facts import FRAME_SIZE, THINGS
from worldcompass.worlds.hands.network.transformer import NUM_CONTROLS
from worldcompass.worlds.hands.outlines import PARTS
from worldcompass.worlds.hands.parts.autoencoder import CODE
from worldcompass.worlds.hands.parts.layers import by_depth, middles, shifted
from worldcompass.worlds.hands.parts.views import SHOWN, WAYS, Seen, drawn, moved_gripper
from worldcompass.worlds.small.linear import LinearCode
from worldcompass.worlds.small.mixing import MixingConfig, MixingTransformer
from worldcompass.worlds.small.transformer import Inputs

CONFIG = MixingConfig(
    CODE.latent_shape,
    seen=SHOWN,
    controls=NUM_CONTROLS,
    token=(2, 2),
    width=192,
    depth=6,
    head=48,
    frame_size=FRAME_SIZE,
    views=0,
    planes=2,
    held=CODE.planes,
)
"""Nothing is mixed: of each pixel the head says how dark a shadow is, and whether the gripper is in front."""
STILL_BORN = 3.0  # weight of standing still before anything is learned, as a logit
AWAY = 2.0  # pixels that one unit of a correction stands for
MOTION_WIDTH = 192
DARK_BORN, FRONT_BORN = -4.0, 3.0  # shadow and front before anything is learned, as logits
UNSURE = 0.05  # deviation of the guessed latents
DARKEST = 0.7  # of a shadow, as a share of the table's light


class PartsTransformer(MixingTransformer):
    """Views are ``views_after``; commands are ``HandsWorld.command``.

    Each part goes a mixture of ``WAYS`` and a correction: its outline moves with it, and so does what was cut out.
    Nothing is drawn freely but shadows. So a part may be in a wrong place, but it can't dissolve.
    """

    def __init__(self, code: LinearCode, config: MixingConfig = CONFIG) -> None:
        super().__init__(config, code)

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See ``ChunkTransformer``; what was cut out is not looked at, as other planes show it."""
        return super().enter(replace(inputs, seen_PKDyx=inputs.seen_PKDyx[:, :, :SHOWN]))

    def add_head(self) -> None:
        """See ``ChunkTransformer``; all stands still at first."""
        super().add_head()
        del self.spread, self.spread_channels
        told = 2 * self.config.grids[-1] + 2 + len(PARTS)
        self.motion = nn.Sequential(
            nn.Linear(told, MOTION_WIDTH), nn.SiLU(), nn.Linear(MOTION_WIDTH, MOTION_WIDTH), nn.SiLU(),
            nn.Linear(MOTION_WIDTH, len(WAYS) + 2),
        )  # fmt: skip
        last = self.motion[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.bias[0] = STILL_BORN
            born = torch.tensor([DARK_BORN, FRONT_BORN]).repeat_interleave(self.config.finest**2)
            self.head.bias.copy_(born)  # type: ignore[union-attr]

    def painted(self, planes_Nchw: Tensor, coarse_Ncyx: Tensor, inputs: Inputs) -> Tensor:
        """See ``MixingTransformer``: colour and outlines."""
        seen = Seen.of(inputs.seen_NDyx.float())
        offsets = seen.offsets_NL2 + self.shifts(coarse_Ncyx, seen)
        own, gripper = offsets.split((len(THINGS), len(PARTS) - len(THINGS)), 1)
        things = shifted(seen.cut_NT4hw.flatten(0, 1), own.flatten(0, 1)).clamp(0, 1).view_as(seen.cut_NT4hw)
        layers, outlines = moved_gripper(gripper)
        dark, front = planes_Nchw.sigmoid().chunk(2, 1)
        ground = seen.table_N3hw * (1 - DARKEST * dark)
        picture = drawn(ground, things, layers, by_depth(seen.cut_NT4hw, own.detach()), front)
        return torch.cat([picture, things[:, :, 3], outlines], 1)

    def unsure(self, coarse_Ncyx: Tensor) -> Tensor:
        """See ``MixingTransformer``: hardly. A picture shows parts, and no noise between them."""
        return coarse_Ncyx.new_full((1,), UNSURE)

    def shifts(self, coarse_Ncyx: Tensor, seen: Seen) -> Tensor:
        """How far each part goes from where the last picture shows it, pixels right and down; (N, L, 2)."""
        middle, _ = middles(seen.outlines_NLhw)
        cells = functional.adaptive_avg_pool2d(seen.outlines_NLhw.clamp(0, 1), self.config.latent_shape[1:])
        cells = cells.flatten(2)
        features = coarse_Ncyx.float().flatten(2)
        own = torch.einsum("nlc,ndc->nld", cells / cells.sum(2, keepdim=True).clamp_min(1e-3), features)
        whole = features.mean(2)[:, None].expand_as(own)
        kinds = torch.eye(len(PARTS), device=own.device).expand(len(own), -1, -1)
        place = middle / (self.config.frame_size[0] / 2) - 1
        told = self.motion(torch.cat([own, whole, place, kinds], 2)).float()
        weights, correction = told.split((len(WAYS), 2), 2)
        return torch.einsum("nlw,nwd->nld", weights.softmax(2), seen.ways_NW2) + AWAY * correction
