"""The chunk-causal flow-matching transformer of the Doom world.

A token is two cells of one latent, one above the other; convolutions at the latent's own resolution, before and
after the transformer, keep detail. Every latent has its own noise level, action and camera motion, which modulate
each block, and its own camera pose, which enters attention: WorldPlay's dual action representation. The rotary
embedding of a token is made of its time and of the azimuth and elevation that it looks at in the world, so
a token that looked at the same thing before matches wherever the camera turned since. Values are rotated
too and turned back after attention, so that what arrives tells how far off it was (as in PRoPE, arXiv 2507.10496).
What the chunk's cameras would see of the last finished latent and of an older one, by their depth, is an input
beside the noisy chunk: what was seen is carried along by geometry, and the network adds what was hidden and mends
what was worn.

Rows are chunks: candidates of one past when imagining, copies and clean chunks when training. Both differ only in
which keys of a past a row may see, and that is what ``Attend`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from worldcompass.worlds.doom.engine.facts import INTRINSICS
from worldcompass.worlds.doom.network.autoencoder import LATENT_SHAPE

CHANNELS, HEIGHT, WIDTH = LATENT_SHAPE
STACKED = 2  # cells of a token: turning moves the picture sideways mostly, so columns are kept apart
ROWS, COLUMNS = HEIGHT // STACKED, WIDTH
TOKENS = ROWS * COLUMNS
HEAD = 48  # dimensions of a head
NUM_MOTION = 5  # right, forward, yaw and pitch change in nominal units, and the pitch itself
# Rotary rates: whole numbers of periods per full turn for the angles, so that they wrap; a cell is 11 degrees wide.
AZIMUTH_RATES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
ELEVATION_RATES = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)
TIME_RATES = (1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.015)
# A linear layer with its activation in one pass. PyTorch's compiler calls it where PyTorch was built with oneDNN;
# there is no public name for it.
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines (rows, 1, tokens, HEAD / 2)."""

Prefix = Sequence[tuple[Tensor, Tensor]]
"""Per block: keys and values of a past, (P, heads, tokens, HEAD)."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(index of the block; queries, keys, values of all rows, rotated) -> what queries see, (rows, heads, N, HEAD)."""


def rotary_table(positions_BK: Tensor, world_from_camera_BK44: Tensor) -> Rotary:
    """The rotary embedding of latents at these positions in time, with these cameras."""
    x, y = _directions(positions_BK.device)
    rays = torch.stack([x, y, torch.ones_like(x)], -1) / (1 + x * x + y * y).sqrt()[:, None]
    seen = torch.einsum("bkij,tj->bkti", world_from_camera_BK44[..., :3, :3].float(), rays)
    azimuth = torch.atan2(seen[..., 0], seen[..., 2])
    elevation = torch.asin(-seen[..., 1].clamp(-1, 1))
    time = positions_BK[..., None].expand_as(azimuth)
    angles = [
        place[..., None] * place.new_tensor(rates)
        for place, rates in ((azimuth, AZIMUTH_RATES), (elevation, ELEVATION_RATES), (time, TIME_RATES))
    ]
    angle = torch.cat(angles, -1).flatten(1, 2)[:, None]
    return angle.cos(), angle.sin()


def _directions(device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the tokens' centres look, right and down of a camera with focal length 1; (TOKENS,) each."""
    fx, fy, cx, cy = INTRINSICS
    down = ((torch.arange(ROWS, device=device) + 0.5) / ROWS - cy) / fy
    right = ((torch.arange(COLUMNS, device=device) + 0.5) / COLUMNS - cx) / fx
    y, x = torch.meshgrid(down, right, indexing="ij")
    return x.flatten(), y.flatten()


def rotate(x: Tensor, rotary: Rotary, back: bool = False) -> Tensor:
    """Rotary embedding of (rows, heads, N, HEAD) in halves, or its inverse."""
    cos, sin = rotary
    return _Rotation.apply(x, cos, -sin if back else sin)  # type: ignore[return-value]


class _Rotation(torch.autograd.Function):
    """Written straight into its place and kept in the layout of its input; the gradient is turned back.

    Automatic differentiation would need a tensor of its own for each of six products and sums.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cos.dtype))
        (a, b), (first, second) = x.chunk(2, -1), out.chunk(2, -1)
        torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
        torch.mul(a, sin, out=second).addcmul_(b, cos)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return rotate(grad, (cos, sin), back=True), None, None


def after_prefix(prefix: Prefix | None) -> Attend:
    """Rows of P pasts, laid side by side, that see their past and themselves; None for no past."""

    def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if prefix is not None:
            k, v = (_behind(past, own) for past, own in zip(prefix[index], (k, v), strict=True))
        return functional.scaled_dot_product_attention(q, k, v)

    return attend


def _behind(past_P: Tensor, own_B: Tensor) -> Tensor:
    """Each row's own keys behind those of its past, copied once; rows of a past lie side by side."""
    times = len(own_B) // len(past_P)
    past = past_P[:, None].expand(-1, times, -1, -1, -1)
    return torch.cat([past, own_B.unflatten(0, (-1, times))], 3).flatten(0, 1)


def feed_forward(up: nn.Module, down: nn.Module, x: Tensor) -> Tensor:
    """``down(gelu(up(x)))``; by oneDNN in three quarters of the time where that can do it."""
    if not (type(up) is nn.Linear and type(down) is nn.Linear and _by_onednn(x)):
        return down(functional.gelu(up(x), approximate="tanh"))
    assert ONEDNN_LINEAR is not None
    hidden = ONEDNN_LINEAR(x, up.weight, up.bias, "gelu", [], "tanh")
    return ONEDNN_LINEAR(hidden, down.weight, down.bias, "none", [], "")


def _by_onednn(x: Tensor) -> bool:
    """On a CPU in float32; it knows no gradient and heeds no autocast."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return ONEDNN_LINEAR is not None and plain and not torch.is_grad_enabled()


def _fold(cells_NcHW: Tensor) -> Tensor:
    """Tokens (N, TOKENS, STACKED * c) of feature maps at the latents' resolution."""
    rows = cells_NcHW.unflatten(2, (ROWS, STACKED))
    return rows.permute(0, 2, 4, 3, 1).flatten(3).flatten(1, 2)


def _unfold(tokens_NTD: Tensor) -> Tensor:
    """The inverse of ``_fold``."""
    cells = tokens_NTD.unflatten(-1, (STACKED, -1)).unflatten(1, (ROWS, COLUMNS))
    return cells.permute(0, 4, 1, 3, 2).flatten(2, 3)


class _Block(nn.Module):
    """Attention and MLP, modulated per latent (adaLN-zero)."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(condition, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, x_BKTD: Tensor, condition_BKE: Tensor, rotary: Rotary, attend: Attend, index: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The block's output and its keys and values, not rotated."""
        modulation = self.modulation(condition_BKE)[..., None, :].chunk(6, -1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        # addcmul(a, b, c) is a + b c in one pass.
        normed = torch.addcmul(shift_1, functional.layer_norm(x_BKTD, x_BKTD.shape[-1:]), 1 + scale_1)
        qkv = self.qkv(normed.flatten(1, 2)).unflatten(-1, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        qk, v = functional.rms_norm(qkv[:2], (HEAD,)), qkv[2]
        q, k = rotate(qk, rotary)
        seen = attend(index, q, k, rotate(v, rotary))
        mixed = rotate(seen, rotary, back=True).transpose(1, 2).flatten(2)
        x = torch.addcmul(x_BKTD, gate_1, self.out(mixed).view_as(x_BKTD))
        normed = torch.addcmul(shift_2, functional.layer_norm(x, x.shape[-1:]), 1 + scale_2)
        return torch.addcmul(x, gate_2, feed_forward(self.up, self.down, normed)), (qk[1], v)


class DoomTransformer(nn.Module):
    """Velocity of noisy chunks, or the keys and values of finished ones."""

    def __init__(self, width: int = 192, depth: int = 6, condition: int = 192) -> None:
        super().__init__()
        detail = width // STACKED
        # The chunk itself, the last finished latent before it, and what the chunk's cameras see of the past.
        self.stem = nn.Conv2d(3 * CHANNELS + 1, detail, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(TOKENS, width))  # attention alone only knows differences
        self.noise_level = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.translation = nn.Embedding(9, condition)
        self.rotation = nn.Embedding(9, condition)
        self.action = nn.Embedding(81, condition)
        self.motion = nn.Sequential(
            nn.Linear(NUM_MOTION, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.blocks = nn.ModuleList(_Block(width, condition) for _ in range(depth))
        self.final_modulation = nn.Linear(condition, 2 * width)
        self.merge = nn.Conv2d(2 * detail, detail, 3, padding=1)
        self.head = nn.Conv2d(detail, CHANNELS, 3, padding=1)
        for layer in (self.head, self.final_modulation):
            nn.init.zeros_(layer.weight)
        for table in (self.translation, self.rotation):
            nn.init.normal_(table.weight, std=0.5)
        nn.init.zeros_(self.action.weight)

    def forward(
        self, latents_BCKHW: Tensor, sigma_BK: Tensor, labels_BK: Tensor, motion_BK5: Tensor,
        before_BCHW: Tensor, seen_BDKHW: Tensor, *, rotary: Rotary, attend: Attend, keep_keys: bool = False,
    ) -> tuple[Tensor, Prefix]:  # fmt: skip
        """Run the transformer.

        Args:
            latents_BCKHW: noisy or clean chunks.
            sigma_BK: noise level of each latent, 0 to 1.
            labels_BK: action of each latent.
            motion_BK5: camera motion of each latent in nominal units, and its pitch.
            before_BCHW: the last finished latent before each chunk.
            seen_BDKHW: what is seen of the past from each latent, see ``Autoencoder.seen_from``; D = C + 1.
            rotary: of each row's tokens, see ``rotary_table``.
            attend: which keys each row sees.
            keep_keys: only return the keys and values; the last layers are skipped.

        Returns:
            Velocity (B, C, K, H, W), and per block the rows' keys and values without rotary embedding.
        """
        batch, _, count = latents_BCKHW.shape[:3]
        condition = self._condition(sigma_BK, labels_BK, motion_BK5)
        before = before_BCHW[:, :, None].expand_as(latents_BCKHW)
        cells = torch.cat([latents_BCKHW, before, seen_BDKHW], 1).transpose(1, 2).flatten(0, 1)
        detail = self.stem(cells)
        x = (_fold(detail) + self.place).unflatten(0, (batch, count))
        keys = []
        for index, block in enumerate(self.blocks):
            x, own = block(x, condition, rotary, attend, index)
            keys.append(own)
        if keep_keys:
            return x.new_zeros(0), keys
        shift, scale = self.final_modulation(condition)[..., None, :].chunk(2, -1)
        x = torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:]), 1 + scale)
        merged = self.merge(functional.silu(torch.cat([_unfold(x.flatten(0, 1)), detail], 1)))
        out = self.head(functional.silu(merged))
        return out.unflatten(0, (batch, count)).transpose(1, 2), keys

    def _condition(self, sigma_BK: Tensor, labels_BK: Tensor, motion_BK5: Tensor) -> Tensor:
        rates = torch.exp(torch.linspace(0, math.log(1000), 32, device=sigma_BK.device))
        angle = sigma_BK[..., None] * rates
        level = self.noise_level(torch.cat([angle.cos(), angle.sin()], -1))
        command = self.translation(labels_BK // 9) + self.rotation(labels_BK % 9) + self.action(labels_BK)
        return functional.silu(level + command + self.motion(motion_BK5))
