"""The chunk-causal flow-matching transformer.

A token is a few cells of one latent; convolutions at the latent's own resolution, before and after the transformer,
keep detail. The last finished latent and the world's views are inputs next to the noisy chunk. A network whose two
ends differ overrides ``add_stem`` and ``enter``, ``add_head`` and ``leave``.

Every latent has its own noise level and command, which modulate each block. The rotary embedding of a token says
when and where it is; what "where" means is the world's: a place in the picture of a still camera, or the direction
that a moving one looks at. Values are rotated too and turned back after attention, so that what arrives tells how
far off it was (as in PRoPE, arXiv 2507.10496).

Rows are chunks: candidates of one past when imagining, copies and clean chunks when training. Both differ only in
which keys of a past a row may see, and that is what ``Attend`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

SLOWEST_PERIOD = 400.0  # latents or tokens, of a still camera's positions; the fastest is a radian for each
# A linear layer with its activation in one pass. PyTorch's compiler calls it where PyTorch was built with oneDNN;
# there is no public name for it.
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines (rows, 1, tokens, head / 2)."""

Prefix = Sequence[tuple[Tensor, Tensor]]
"""Per block: keys and values of a past, (P, heads, tokens, head)."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(index of the block; queries, keys, values of all rows, rotated) -> what queries see, (rows, heads, N, head)."""


Command = tuple[Tensor, ...]
"""What a network is told about each latent's action; any tensors (B, K, ...) that its ``commanded`` understands."""


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a chunk-causal transformer."""

    latent_shape: tuple[int, int, int]
    """(C, H, W)."""
    seen: int = 0
    """D, channels of the views that enter next to the noisy chunk and the last finished latent; see ``enter``."""
    controls: int = 0
    """Numbers of one latent's command, for networks that do not override ``add_command``."""
    token: tuple[int, int] = (2, 1)
    """Cells of a token, down and across; they divide the latent."""
    width: int = 192
    depth: int = 6
    head: int = 48
    """Channels of an attention head; it divides the width."""
    condition: int = 192
    """Channels of what modulates the blocks."""

    def __post_init__(self) -> None:
        down, across = self.token
        if self.latent_shape[1] % down or self.latent_shape[2] % across:
            raise ValueError(f"tokens of {self.token} cells do not divide latents of {self.latent_shape[1:]}")
        if self.width % self.head or self.head % 2 or self.width % (down * across):
            raise ValueError(
                f"a width of {self.width} does not divide into heads of {self.head}, an even number, and into"
                f" {down * across} cells of a token"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.latent_shape[1] // self.token[0], self.latent_shape[2] // self.token[1]

    @property
    def tokens(self) -> int:
        """Of one latent."""
        return self.grid[0] * self.grid[1]

    @property
    def cells(self) -> int:
        """Of one token."""
        return self.token[0] * self.token[1]


def rotary_of(*places: tuple[Tensor, Sequence[float]]) -> Rotary:
    """The rotary embedding of coordinates (B, K, tokens), each with its rates; head / 2 rates in all."""
    angles = [place[..., None] * place.new_tensor(rates) for place, rates in places]
    angle = torch.cat(angles, -1).flatten(1, 2)[:, None]
    return angle.cos(), angle.sin()


def still_rotary(positions_BK: Tensor, config: TransformerConfig) -> Rotary:
    """The rotary embedding for a still camera: a token's row and column in the picture, and its time."""
    rows, columns = config.grid
    device, each = positions_BK.device, config.head // 6
    row, column = torch.meshgrid(
        torch.arange(rows, device=device).float(), torch.arange(columns, device=device).float(), indexing="ij"
    )
    shape = (*positions_BK.shape, config.tokens)
    return rotary_of(
        (row.flatten().expand(shape), _rates(each)),
        (column.flatten().expand(shape), _rates(each)),
        (positions_BK[..., None].expand(shape), _rates(config.head // 2 - 2 * each)),
    )


def _rates(count: int) -> list[float]:
    """Radians for each step, falling evenly in their logarithm from 1."""
    return [(2 * math.pi / SLOWEST_PERIOD) ** (i / max(1, count - 1)) for i in range(count)]


def rotate(x: Tensor, rotary: Rotary, back: bool = False) -> Tensor:
    """Rotary embedding of (rows, heads, N, head) in halves, or its inverse."""
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


class _Block(nn.Module):
    """Attention and MLP, modulated per latent (adaLN-zero)."""

    def __init__(self, width: int, condition: int, head: int) -> None:
        super().__init__()
        self.heads, self.head = width // head, head
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
        qkv = self.qkv(normed.flatten(1, 2)).unflatten(-1, (3, self.heads, self.head)).permute(2, 0, 3, 1, 4)
        qk, v = functional.rms_norm(qkv[:2], (self.head,)), qkv[2]
        q, k = rotate(qk, rotary)
        seen = attend(index, q, k, rotate(v, rotary))
        mixed = rotate(seen, rotary, back=True).transpose(1, 2).flatten(2)
        x = torch.addcmul(x_BKTD, gate_1, self.out(mixed).view_as(x_BKTD))
        normed = torch.addcmul(shift_2, functional.layer_norm(x, x.shape[-1:]), 1 + scale_2)
        return torch.addcmul(x, gate_2, feed_forward(self.up, self.down, normed)), (qk[1], v)


@dataclass(frozen=True)
class Inputs:
    """What a network's ends see of N latents."""

    latents_NCHW: Tensor
    """Noisy, or clean."""
    sigma_N: Tensor
    """Their noise levels."""
    before_NCHW: Tensor
    """The last finished latent before each one's chunk."""
    seen_PKDyx: Tensor
    """The world's views of P pasts; N is P times rows times K, in this order."""
    condition_NE: Tensor
    """What modulates the blocks: the noise level's features and the command's."""
    row: int = 1
    """K, latents of a row."""
    temperature: float = 1.0
    """Share of what the network is unsure of that noise decides; networks that don't say so have no use for it."""

    @property
    def seen_NDyx(self) -> Tensor:
        """The world's views of every latent; a copy where rows share a past."""
        return spread(self.seen_PKDyx, len(self.latents_NCHW))

    def select(self, chosen: Tensor, row: int) -> Inputs:
        """The same of the latents of these numbers, in rows of so many."""
        return Inputs(
            self.latents_NCHW[chosen], self.sigma_N[chosen], self.before_NCHW[chosen],
            self.seen_NDyx[chosen][:, None], self.condition_NE[chosen], row, self.temperature,
        )  # fmt: skip


def _asked(asked_B: Tensor | None, batch: int, count: int, known: int, device: torch.device) -> Tensor:
    """Numbers of the latents (N,) of the rows asked for, without the ``known`` first ones of each row."""
    rows = torch.arange(batch, device=device) if asked_B is None else asked_B.nonzero()[:, 0]
    return (count * rows[:, None] + torch.arange(known, count, device=device)).flatten()


def spread(shared_PK: Tensor, count: int) -> Tensor:
    """Each past's K entries for all of its rows: (N, ...) of (P, K, ...), ``count`` being N = P * rows * K."""
    pasts, latents = shared_PK.shape[:2]
    rows = count // (pasts * latents)
    return shared_PK[:, None].expand(-1, rows, *(-1,) * (shared_PK.ndim - 1)).flatten(0, 2)


class ChunkTransformer(nn.Module):
    """Velocity of noisy chunks, or the keys and values of finished ones.

    The command is a row of numbers for each latent. A network with another one overrides ``add_command`` and
    ``commanded``. Convolutions over the cells of latents and views are its two ends; others override ``add_stem``
    and ``enter``, ``add_head`` and ``leave``.
    """

    row_size = 1
    """About how many times as large a row's tensors are as those of a network with the kit's own ends."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, condition = config.width, config.condition
        self.add_stem()
        self.place = nn.Parameter(torch.zeros(config.tokens, width))  # attention alone only knows differences
        self.noise_level = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.add_command()
        self.blocks = nn.ModuleList(_Block(width, condition, config.head) for _ in range(config.depth))
        self.final_modulation = nn.Linear(condition, 2 * width)
        self.add_head()
        nn.init.zeros_(self.final_modulation.weight)

    def add_stem(self) -> None:
        """Add the layers of ``enter``."""
        channels, detail = self.config.latent_shape[0], self.config.width // self.config.cells
        self.stem = nn.Conv2d(2 * channels + self.config.seen, detail, 3, padding=1)

    def enter(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (N, tokens, width) of latents and what they are seen next to, and whatever ``leave`` needs."""
        detail = self.stem(torch.cat([inputs.latents_NCHW, inputs.before_NCHW, inputs.seen_NDyx], 1))
        return self._fold(detail), (detail,)

    def add_head(self) -> None:
        """Add the layers of ``leave``."""
        channels, detail = self.config.latent_shape[0], self.config.width // self.config.cells
        self.merge = nn.Conv2d(2 * detail, detail, 3, padding=1)
        self.head = nn.Conv2d(detail, channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def leave(self, tokens_NTD: Tensor, kept: tuple[Tensor, ...], inputs: Inputs) -> Tensor:
        """Velocity (N, C, H, W).

        Args:
            tokens_NTD: of the last block, normalised and modulated.
            kept: the second result of ``enter``.
            inputs: of ``enter``.
        """
        (detail,) = kept
        merged = self.merge(functional.silu(torch.cat([self._unfold(tokens_NTD), detail], 1)))
        return self.head(functional.silu(merged))

    def add_command(self) -> None:
        """Add the layers of ``commanded``."""
        size = self.config.condition
        self.controls = nn.Sequential(nn.Linear(self.config.controls, size), nn.SiLU(), nn.Linear(size, size))

    def commanded(self, level_BKE: Tensor, command: Command) -> Tensor:
        """What modulates the blocks, before its activation: the noise level's features and the command's."""
        (values_BKA,) = command
        return level_BKE + self.controls(values_BKA)

    def forward(
        self, latents_BCKHW: Tensor, sigma_BK: Tensor, command: Command, before_BCHW: Tensor, seen_PDKyx: Tensor,
        *, rotary: Rotary, attend: Attend, keep_keys: bool = False, asked_B: Tensor | None = None, known: int = 0,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Prefix]:  # fmt: skip
        """Run the transformer.

        Args:
            latents_BCKHW: noisy or clean chunks.
            sigma_BK: noise level of each latent, 0 to 1.
            command: of each latent.
            before_BCHW: the last finished latent before each chunk.
            seen_PDKyx: the world's views for each latent of P pasts, whose rows lie side by side; P divides B.
            rotary: of each row's tokens.
            attend: which keys each row sees.
            keep_keys: only return the keys and values; the last layers are skipped.
            asked_B: bool, the rows whose velocity is wanted; None for all.
            known: first latents of each row that are seen but whose velocity nobody wants.
            temperature: see ``Inputs``.

        Returns:
            Velocity (B, C, K - known, H, W) of the rows asked for, and per block the keys and values of all rows
            without rotary embedding.
        """
        batch, _, count = latents_BCKHW.shape[:3]
        condition = functional.silu(self.commanded(self._level(sigma_BK), command))
        before = before_BCHW[:, :, None].expand_as(latents_BCKHW)
        latents, before = (x.transpose(1, 2).flatten(0, 1) for x in (latents_BCKHW, before))
        inputs = Inputs(
            latents, sigma_BK.flatten(), before, seen_PDKyx.transpose(1, 2), condition.flatten(0, 1), count,
            temperature,
        )  # fmt: skip
        tokens, kept = self.enter(inputs)
        x = (tokens + self.place).unflatten(0, (batch, count))
        keys = []
        for index, block in enumerate(self.blocks):
            x, own = block(x, condition, rotary, attend, index)
            keys.append(own)
        if keep_keys:
            return x.new_zeros(0), keys
        shift, scale = self.final_modulation(condition)[..., None, :].chunk(2, -1)
        x = torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:]), 1 + scale)
        x = x.flatten(0, 1)
        if asked_B is not None or known:
            asked_N = _asked(asked_B, batch, count, known, x.device)
            x, kept = x[asked_N], tuple(part[asked_N] for part in kept)
            inputs = inputs.select(asked_N, count - known)
        out = self.leave(x, kept, inputs)
        return out.unflatten(0, (-1, count - known)).transpose(1, 2), keys

    def _level(self, sigma_BK: Tensor) -> Tensor:
        rates = torch.exp(torch.linspace(0, math.log(1000), 32, device=sigma_BK.device))
        angle = sigma_BK[..., None] * rates
        return self.noise_level(torch.cat([angle.cos(), angle.sin()], -1))

    def _fold(self, cells_NcHW: Tensor) -> Tensor:
        """Tokens (N, tokens, cells * c) of feature maps at the latents' resolution."""
        (rows, columns), (down, across) = self.config.grid, self.config.token
        cells = cells_NcHW.unflatten(3, (columns, across)).unflatten(2, (rows, down))
        return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _unfold(self, tokens_NTD: Tensor) -> Tensor:
        """The inverse of ``_fold``."""
        cells = tokens_NTD.unflatten(-1, (*self.config.token, -1)).unflatten(1, self.config.grid)
        return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
