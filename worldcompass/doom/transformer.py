"""The chunk-causal flow-matching transformer of the Doom world.

A token is a 2x2 patch of one latent. Convolutions at the latents' own resolution around the transformer keep
detail; the transformer mixes over space and time. Every latent has its own noise level, action and camera
motion (WorldPlay's dual action representation), which modulate each block. Keys are stored before the rotary
embedding, so memory latents can take the consecutive positions the model was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.doom.autoencoder import LATENT_SHAPE
from worldcompass.geometry import motion_signs

CHANNELS, HEIGHT, WIDTH = LATENT_SHAPE
PATCH = 2
ROWS, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH
TOKENS = ROWS * COLUMNS
NUM_MOTION = 5  # right, forward, yaw and pitch change in nominal units, and the pitch itself
ROTARY_SPLIT = (16, 24, 24)  # dimensions of a head for time, row, column
ROTARY_BASE = 100.0

Prefix = Sequence[tuple[Tensor, Tensor]]
"""Per block: keys without rotary embedding and values, (P, heads, tokens, head_dim)."""


class _Block(nn.Module):
    """Attention and MLP, modulated per latent (adaLN-zero)."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(condition, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both normalised) and values, (B, heads, N, head_dim)."""
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return functional.rms_norm(q, q.shape[-1:]), functional.rms_norm(k, k.shape[-1:]), v

    def forward(
        self, x_BKTD: Tensor, condition_BKE: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None,
        past: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
        """The block's output and its own keys and values, before the rotary embedding."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition_BKE)[
            ..., None, :
        ].chunk(6, -1)
        normed = functional.layer_norm(x_BKTD, x_BKTD.shape[-1:]) * (1 + scale_1) + shift_1
        q, k, v = self.project(normed.flatten(1, 2))
        mixed = _attend(rotate(q, rotary), rotate(k, rotary), v, mask, past)
        x = x_BKTD + gate_1 * self.out(mixed).unflatten(1, x_BKTD.shape[1:3])
        normed = functional.layer_norm(x, x.shape[-1:]) * (1 + scale_2) + shift_2
        return x + gate_2 * self.down(functional.gelu(self.up(normed), approximate="tanh")), (k, v)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    past: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None,
) -> Tensor:
    """Softmax attention to own and past keys; the rows of one past share its keys without a copy.

    With P pasts and B rows the queries of a past's rows are laid side by side: they attend to the prefix in
    one product, to their own chunk apart, and both results are merged by their log-sum-exp.
    """
    if past is None:
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)
    past_k, past_v, rotary = past
    past_k = rotate(past_k, rotary)
    pasts, (rows, _heads, length, size) = len(past_k), q.shape
    own = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(size)
    if mask is not None:
        own = own + mask
    side = q.unflatten(0, (pasts, -1)).transpose(1, 2).flatten(2, 3)
    far = torch.einsum("phqd,phkd->phqk", side, past_k) / math.sqrt(size)
    own_sum = own.logsumexp(-1, keepdim=True)
    far_sum = far.logsumexp(-1, keepdim=True)
    far_out = (far - far_sum).exp() @ past_v
    far_out, far_sum = (
        x.unflatten(2, (rows // pasts, length)).transpose(1, 2).flatten(0, 1) for x in (far_out, far_sum)
    )
    own_out = (own - own_sum).exp() @ v
    out = far_out + torch.sigmoid(own_sum - far_sum) * (own_out - far_out)
    return out.transpose(1, 2).flatten(2)


def rotary_table(positions_K: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (K * TOKENS, head_dim / 2) for latents at these positions in time."""
    device = positions_K.device
    row, column = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    angles = []
    for size, place in zip(
        ROTARY_SPLIT,
        (positions_K[:, None], row.flatten().to(device)[None], column.flatten().to(device)[None]),
        strict=True,
    ):
        rates = ROTARY_BASE ** (-torch.arange(0, size, 2, device=device) / size)
        angles.append((place[..., None] * rates).expand(len(positions_K), TOKENS, -1))
    angle = torch.cat(angles, -1).flatten(0, 1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of (..., N, head_dim) in halves."""
    cos, sin = rotary
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class _Film(nn.Module):
    """A residual 3x3 convolution at the latents' resolution, shifted and scaled per latent."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition_NE: Tensor) -> Tensor:
        scale, shift = self.modulation(condition_NE)[..., None, None].chunk(2, 1)
        hidden = self.first(functional.silu(x)) * (1 + scale) + shift
        return x + self.second(functional.silu(hidden))


class DoomTransformer(nn.Module):
    """Velocity of noisy chunks, or the keys and values of finished ones."""

    def __init__(self, width: int = 256, depth: int = 6, detail: int = 96, condition: int = 192) -> None:
        super().__init__()
        head = sum(ROTARY_SPLIT)
        self.stem = nn.Conv2d(2 * CHANNELS, detail, 3, padding=1)
        self.stem_film = _Film(detail, condition)
        self.patch = nn.Linear(detail * PATCH**2, width)
        self.noise_level = nn.Sequential(nn.Linear(64, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.translation = nn.Embedding(9, condition)
        self.rotation = nn.Embedding(9, condition)
        self.action = nn.Embedding(81, condition)
        self.motion = nn.Sequential(
            nn.Linear(NUM_MOTION, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.blocks = nn.ModuleList(_Block(width, width // head, condition) for _ in range(depth))
        self.final_modulation = nn.Linear(condition, 2 * width)
        self.unpatch = nn.Linear(width, detail * PATCH**2)
        self.merge = nn.Conv2d(2 * detail, detail, 1)
        self.head_film = _Film(detail, condition)
        self.head = nn.Conv2d(detail, CHANNELS, 3, padding=1)
        for layer in (self.head, self.final_modulation):
            nn.init.zeros_(layer.weight)
        for table in (self.translation, self.rotation):
            nn.init.normal_(table.weight, std=0.5)
        nn.init.zeros_(self.action.weight)

    def forward(
        self, latents_BCKHW: Tensor, sigma_BK: Tensor, labels_BK: Tensor, motion_BK5: Tensor,
        before_BCHW: Tensor, *, positions_K: Tensor, mask: Tensor | None = None,
        prefix: tuple[Prefix, Tensor] | None = None, keep_keys: bool = False,
    ) -> tuple[Tensor, Prefix]:  # fmt: skip
        """Run the transformer.

        Args:
            latents_BCKHW: noisy or clean latents.
            sigma_BK: noise level of each latent, 0 to 1.
            labels_BK: action of each latent.
            motion_BK5: camera motion of each latent in nominal units, and its pitch.
            before_BCHW: the last finished latent before each row's chunk, or (B, C, K, H, W) per latent.
            positions_K: rotary position in time of each latent.
            mask: additive or boolean attention mask among the rows' own tokens.
            prefix: keys and values of P pasts with the rotary positions of their latents.
            keep_keys: only return the keys and values; the last layers are skipped.

        Returns:
            Velocity (B, C, K, H, W) and per block the rows' own keys and values.
        """
        batch, _, count = latents_BCKHW.shape[:3]
        condition = self._condition(sigma_BK, labels_BK, motion_BK5)
        flat_condition = condition.flatten(0, 1)
        before = before_BCHW if before_BCHW.dim() == 5 else before_BCHW[:, :, None].expand_as(latents_BCKHW)
        pixels = torch.cat([latents_BCKHW, before], 1).transpose(1, 2).flatten(0, 1)
        detail = self.stem_film(self.stem(pixels), flat_condition)
        x = self.patch(functional.pixel_unshuffle(detail, PATCH).flatten(2).transpose(1, 2)).unflatten(
            0, (batch, count)
        )
        rotary = rotary_table(positions_K)
        condition = functional.silu(condition)
        past_rotary = rotary_table(prefix[1]) if prefix else None
        keys = []
        for index, block in enumerate(self.blocks):
            past = (*prefix[0][index], past_rotary) if prefix and past_rotary else None
            x, own = block(x, condition, rotary, mask, past)
            keys.append(own)
        if keep_keys:
            return x.new_zeros(0), keys
        shift, scale = self.final_modulation(condition)[..., None, :].chunk(2, -1)
        x = functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        patches = self.unpatch(x).flatten(0, 1).transpose(1, 2).unflatten(2, (ROWS, COLUMNS))
        merged = self.merge(torch.cat([functional.pixel_shuffle(patches, PATCH), detail], 1))
        out = self.head(functional.silu(self.head_film(merged, flat_condition)))
        return out.unflatten(0, (batch, count)).transpose(1, 2), keys

    def _condition(self, sigma_BK: Tensor, labels_BK: Tensor, motion_BK5: Tensor) -> Tensor:
        rates = torch.exp(torch.linspace(0, math.log(1000), 32, device=sigma_BK.device))
        angle = sigma_BK[..., None] * rates
        level = self.noise_level(torch.cat([angle.cos(), angle.sin()], -1))
        command = self.translation(labels_BK // 9) + self.rotation(labels_BK % 9) + self.action(labels_BK)
        return level + command + self.motion(motion_BK5)


def nominal_motion(labels: Tensor) -> Tensor:
    """Signs of the commanded motion in nominal units; used where no pose is at hand (float, (..., 4))."""
    return motion_signs(labels)
