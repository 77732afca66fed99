"""NanoWM's transformer: blocks within a latent and blocks along time take turns; parameter names are official.

Attention along time is causal, so the first latents of a window never depend on later ones. They run once per
chunk, and the keys and values of the blocks along time are stored, a ``Prefix``. The noisy latents run at every
denoising step after it. Several rows may share a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.nano.config import MLP_RATIO, NanoConfig
from worldcompass.worlds.open.layers import run_block, sinusoid
from worldcompass.worlds.open.pasts import rows_per_past

SINUSOID = 256  # dimensions of a timestep's sinusoidal embedding
ROPE_THETA = 10_000.0
EPS = 1e-6  # of all norms

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of a block along time, (P, patches, heads, n, head)."""
Past = tuple[Tensor, Tensor, Tensor]
"""The same, and embedded actions (P, n, D)."""


@dataclass(frozen=True)
class Frames:
    """Successive latents of B windows with their conditions."""

    latents_BCKHW: Tensor
    """In the network's own scale."""
    timesteps_BK: Tensor
    """0 to T - 1; of clean latents 0."""
    actions_BKA: Tensor
    """Normalised; row k moves into latent k. That of a window's first latent is not read."""


@dataclass(frozen=True)
class Prefix:
    """What later latents read of the first latents of P windows."""

    keys: tuple[KeyValues | None, ...]
    """Of every block along time; None for the others."""
    actions_PnD: Tensor
    """Embedded actions."""

    @property
    def num_latents(self) -> int:
        """n."""
        return self.actions_PnD.shape[1]

    def select(self, row: int) -> Prefix:
        """The prefix of a single window."""
        rows = slice(row, row + 1)
        keys = tuple(None if kept is None else (kept[0][rows], kept[1][rows]) for kept in self.keys)
        return Prefix(keys, self.actions_PnD[rows])

    def of_block(self, index: int, rows: int) -> Past | None:
        """A block's past for ``rows`` rows of each window."""
        kept = self.keys[index]
        if kept is None:
            return None
        k, v, actions = (x.repeat_interleave(rows, 0) for x in (*kept, self.actions_PnD))
        return k, v, actions


class Embedder(nn.Module):
    """Two layers that embed timesteps or actions."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., D)."""
        return self.mlp(x.to(next(self.mlp.parameters()).dtype))


class PatchEmbed(nn.Module):
    """One token per patch of a latent, row by row."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.latent_channels, config.width, config.patch, config.patch)

    def forward(self, latents_BCKHW: Tensor) -> Tensor:
        """(B, K, patches, D)."""
        pictures = latents_BCKHW.transpose(1, 2)
        flat = pictures.flatten(0, 1).to(self.proj.weight.dtype)
        return self.proj(flat).flatten(2).mT.unflatten(0, pictures.shape[:2])


class Attention(nn.Module):
    """Attention with normalised and rotated queries and keys."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.q_norm, self.k_norm = (nn.RMSNorm(config.head, EPS) for _ in "qk")

    def forward(
        self, x_BSLD: Tensor, rotary_LD: Tensor, past: Past | None, causal: bool
    ) -> tuple[Tensor, KeyValues]:
        """Attention along L, and the keys and values to store.

        Args:
            x_BSLD: S sequences of L tokens in every row.
            rotary_LD: angles of the tokens, half of the width of a head.
            past: keys and values before the row's own.
            causal: whether a token sees no later ones.
        """
        q, k, v = self.qkv(x_BSLD).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        # Autocast on CUDA normalises in float32, and attention's kernels take one type: that of v.
        q, k = (rotate(norm(x), rotary_LD).to(v) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        kept = k, v
        if past is not None:
            k, v = torch.cat([past[0].to(k), k], -2), torch.cat([past[1].to(v), v], -2)
        out = attend_to_few(q, k, v, causal=True) if causal else attend_to_many(q, k, v)
        return self.proj(out.transpose(-2, -3).flatten(-2)), kept


class CrossAttention(nn.Module):
    """Attention to embedded actions, without positions."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.width
        self.q, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, x_BSLD: Tensor, actions_BSMD: Tensor, causal: bool) -> Tensor:
        """(B, S, L, D); with ``causal`` the last token sees all M actions, and each earlier one sees one less."""
        q = self.q(x_BSLD).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
        k, v = self.kv(actions_BSMD).unflatten(-1, (2, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        return self.proj(attend_to_few(q, k, v, causal).transpose(-2, -3).flatten(-2))


class GatedMlp(nn.Module):
    """``w3 (SiLU(w1 x) * w2 x)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Linear(width, MLP_RATIO * width, bias=False) for _ in range(2))
        self.w3 = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.w3(functional.silu(self.w1(x)) * self.w2(x))


class Block(nn.Module):
    """A block within latents, or along time for one patch.

    The action of a latent enters in one of five ways: added to the tokens (``additive``) or to the timestep
    (``adaln_fuse``), as modulation (``adaln``), as a scale and shift before the MLP (``film``), or by attention
    after it (``cross_attention``).
    """

    def __init__(self, config: NanoConfig, in_time: bool) -> None:
        super().__init__()
        self.in_time, self.injection, width = in_time, config.injection, config.width
        self.attn, self.mlp = Attention(config), GatedMlp(width)
        self.adaLN_modulation = _modulation(width, 6)
        if config.injection == "adaln":
            self.action_adaLN_modulation = _modulation(width, 6)
        elif config.injection == "film":
            self.film_modulation = _modulation(width, 2)
        elif config.injection == "cross_attention":
            self.cross_attn = CrossAttention(config)
            self.cross_gate = nn.Parameter(torch.zeros(width))

    def forward(
        self,
        x_BKND: Tensor,
        time_BKD: Tensor,
        action_BKD: Tensor,
        rotary_LD: Tensor,
        past: Past | None,
        keep_keys: bool = False,
    ) -> tuple[Tensor, KeyValues | None]:
        """The tokens after the block, and along time with ``keep_keys`` their keys and values."""
        x = x_BKND + action_BKD[:, :, None] if self.injection == "additive" else x_BKND
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self._parts(time_BKD, action_BKD)
        attended, kept = self._attend(modulate(x, shift, scale), rotary_LD, past)
        x = x + gate * attended
        if self.injection == "film":
            gamma, beta = self.film_modulation(action_BKD)[:, :, None].chunk(2, -1)
            x = (1 + gamma) * x + beta
        x = x + gate_mlp * self.mlp(modulate(x, shift_mlp, scale_mlp))
        if self.injection == "cross_attention":
            x = x + self.cross_gate * self._ask_actions(layer_norm(x), action_BKD, past)
        if not (keep_keys and self.in_time):
            return x, None
        return x, (kept[0], kept[1].contiguous())  # not a view, which would hold queries and keys, too

    def _parts(self, time_BKD: Tensor, action_BKD: Tensor) -> tuple[Tensor, ...]:
        condition = time_BKD + action_BKD if self.injection == "adaln_fuse" else time_BKD
        parts = self.adaLN_modulation(condition)
        if self.injection == "adaln":
            parts = parts + self.action_adaLN_modulation(action_BKD)
        return parts[:, :, None].chunk(6, -1)

    def _attend(self, x_BKND: Tensor, rotary_LD: Tensor, past: Past | None) -> tuple[Tensor, KeyValues]:
        if not self.in_time:
            return self.attn(x_BKND, rotary_LD, None, causal=False)
        out, kept = self.attn(x_BKND.transpose(1, 2), rotary_LD, past, causal=True)
        return out.transpose(1, 2), kept

    def _ask_actions(self, x_BKND: Tensor, action_BKD: Tensor, past: Past | None) -> Tensor:
        if not self.in_time:
            return self.cross_attn(x_BKND, action_BKD[:, :, None], causal=False)
        seen = action_BKD if past is None else torch.cat([past[2].to(action_BKD), action_BKD], 1)
        return self.cross_attn(x_BKND.transpose(1, 2), seen[:, None], causal=True).transpose(1, 2)


class FinalLayer(nn.Module):
    """The output for each patch; only the timestep modulates it."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, config.grid
        self.linear = nn.Linear(config.width, config.patch**2 * config.latent_channels)
        self.adaLN_modulation = _modulation(config.width, 2)

    def forward(self, x_BKND: Tensor, time_BKD: Tensor) -> Tensor:
        """(B, C, K, H, W)."""
        shift, scale = self.adaLN_modulation(time_BKD)[:, :, None].chunk(2, -1)
        tokens = self.linear(modulate(x_BKND, shift, scale))
        cells = tokens.unflatten(-1, (self.patch, self.patch, -1)).unflatten(2, (self.grid, self.grid))
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class NanoTransformer(nn.Module):
    """Call it with ``Frames``, for a prefix or for the network's output."""

    def __init__(self, config: NanoConfig | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.config = config = config or NanoConfig()
        self.recompute = recompute  # recompute activations in the backward pass instead of storing them
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2, config.width))
        self.temp_embed = nn.Parameter(torch.zeros(1, config.num_frames, config.width))
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = Embedder(SINUSOID, config.width)
        self.action_embedder = Embedder(config.action_size, config.width)
        self.blocks = nn.ModuleList(
            Block(config, in_time=index % 2 == 1) for index in range(config.num_blocks)
        )
        self.final_layer = FinalLayer(config)

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Modules whose parameters are gathered together when weights are sharded, see ``InUnits``."""
        yield from ((block,) for block in self.blocks)

    def forward(self, frames: Frames, prefix: Prefix | None = None, keep_keys: bool = False) -> Any:
        """Run latents of B windows after their first ones, if any.

        Args:
            frames: the latents.
            prefix: the first latents of P windows; row b belongs to window ``b // (B // P)``.
            keep_keys: return a prefix instead of the output; for the first latents.

        Returns:
            The output (B, C, K, H, W) in the network's dtype, or a ``Prefix``.

        Raises:
            ValueError: when the latents are more than a window, or the prefix's windows do not divide the rows.
        """
        first, rows = self._place(frames, prefix)
        config, count = self.config, frames.latents_BCKHW.shape[2]
        x = self.x_embedder(frames.latents_BCKHW) + self.pos_embed[:, None]
        time = self.t_embedder(sinusoid(frames.timesteps_BK, SINUSOID))
        actions = self.action_embedder(frames.actions_BKA)
        if first == 0:
            actions = torch.cat([torch.zeros_like(actions[:, :1]), actions[:, 1:]], 1)
        places = torch.arange(first, first + count, device=x.device)
        tables = within_latents(config, x.device), along_time(config, places)
        kept: list[KeyValues | None] = []
        for index, block in enumerate(self.blocks):
            if index == 1:
                x = x + self.temp_embed[:, first : first + count, None]
            past = None if prefix is None else prefix.of_block(index, rows)
            x, keys = run_block(self.recompute, block, x, time, actions, tables[index % 2], past, keep_keys)
            kept.append(keys)
        if keep_keys:
            return Prefix(tuple(kept), actions)
        # Not a view: with sharded weights the backward pass begins at this tensor.
        return self.final_layer(x, time).clone()

    def _place(self, frames: Frames, prefix: Prefix | None) -> tuple[int, int]:
        """The place of the first latent in its window, and the rows of each window of the prefix."""
        first = prefix.num_latents if prefix else 0
        rows, count = frames.latents_BCKHW.shape[0], frames.latents_BCKHW.shape[2]
        if first + count > self.config.num_frames:
            raise ValueError(
                f"{count} latents after {first} are more than a window: expected at most {self.config.num_frames}"
            )
        return first, rows_per_past(rows, len(prefix.actions_PnD)) if prefix else rows


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm without parameters."""
    return functional.layer_norm(x, x.shape[-1:], eps=EPS).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm, scaled and shifted."""
    return layer_norm(x) * (1 + scale) + shift


def attend_to_many(q_BShLd: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention along L by the kernels of PyTorch, which take one axis of batches."""
    q, k, v = (x.flatten(0, 1) for x in (q_BShLd, k, v))
    return functional.scaled_dot_product_attention(q, k, v).view_as(q_BShLd)


def attend_to_few(q_BShLd: Tensor, k_BShMd: Tensor, v_BShMd: Tensor, causal: bool) -> Tensor:
    """Attention to a few keys, for more sequences than the kernels of CUDA take; keys may be shared along S."""
    scores = q_BShLd @ k_BShMd.mT * q_BShLd.shape[-1] ** -0.5
    mask = causal_mask(q_BShLd, k_BShMd) if causal else None
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(v_BShMd.dtype) @ v_BShMd


def rotate(x: Tensor, angles_LD: Tensor) -> Tensor:
    """Rotate components j and j + half of every head by the angles of its token."""
    first, second = x.chunk(2, -1)
    cos, sin = angles_LD.cos(), angles_LD.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def within_latents(config: NanoConfig, device: torch.device) -> Tensor:
    """Angles of a latent's tokens, (patches, head / 2): the first half by the row, the others by the column."""
    lines = torch.arange(config.grid, device=device)
    rates = _rates(config.head // 4, device)
    row, column = torch.meshgrid(lines, lines, indexing="ij")
    return torch.cat([place.flatten()[:, None] * rates for place in (row, column)], 1)


def along_time(config: NanoConfig, places_K: Tensor) -> Tensor:
    """Angles of places in a window, (K, head / 2)."""
    return places_K[:, None] * _rates(config.head // 2, places_K.device)


def causal_mask(q: Tensor, k: Tensor) -> Tensor | None:
    """Which keys (L, M) a query sees: the last one all, and each earlier one sees one less. None for one query."""
    count, seen = q.shape[-2], k.shape[-2]
    if count == 1:
        return None
    return torch.ones(count, seen, dtype=torch.bool, device=q.device).tril(seen - count)


def _rates(count: int, device: torch.device) -> Tensor:
    return ROPE_THETA ** (-torch.arange(count, device=device).float() / count)


def _modulation(width: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))
