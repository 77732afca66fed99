"""The network of causal Wan2.1: flow of a chunk of latents after a past (minWM, Matrix-Game 2, ForgeWM).

A pass over a finished chunk, at timestep 0, keeps keys and values of self-attention, before rotation and transform:
one pair serves both branches, and each use rotates it by the latents' absolute indices and transforms it by their
cameras. A pass over a noisy chunk reads them. Prompt and image are embedded in every pass, so that gradients reach
these parameters; this costs a thousandth of a pass. Parameter names are the official ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.causal_wan.config import Config
from worldcompass.worlds.causal_wan.memory import BlockKeys, Kept, Past, Seen, both_branches
from worldcompass.worlds.open.attention import KeyValues, attend_after
from worldcompass.worlds.open.layers import (
    add_gated,
    merge_heads,
    modulate_in_float,
    norm_in_float,
    run_block,
    sinusoid,
    split_heads,
)
from worldcompass.worlds.open.pasts import rows_per_past
from worldcompass.worlds.open.prope import Cameras
from worldcompass.worlds.open.rotary import Rotary, rotary_table, rotate

ROPE_THETA = 10_000.0
IMAGE_EPS = 1e-5  # of the norms around the image's projection


@dataclass(frozen=True)
class Latents:
    """Latents of B rows, finished or noisy, with their conditions."""

    latents_BCKHW: Tensor
    """All channels that the network reads."""
    timesteps_BK: Tensor
    """0 to 1000, not rounded."""
    first: int
    """Index of the first latent in the video."""
    cameras: Cameras | None = None
    """Of the K latents of every row; without them the branch by cameras is left out, which is another function."""
    actions: Any = None
    """What the modules for actions read, for B rows."""


class _Attention(nn.Module):
    """Queries, keys and values of one type; norms cover all heads together.

    Autocast on CUDA normalises in float32, and attention's kernels take one type, so that results are cast back.
    """

    def __init__(self, config: Config, by_camera: bool = False) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.width
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(width, config.eps) for _ in range(2))
        if by_camera:
            self.prope_o = nn.Linear(width, width)
            nn.init.zeros_(self.prope_o.weight)
            nn.init.zeros_(self.prope_o.bias)

    def queries(self, x_BND: Tensor) -> Tensor:
        q = self.q(x_BND)
        return split_heads(self.norm_q(q).to(q), self.num_heads)

    def keys(self, x_BND: Tensor) -> KeyValues:
        v = self.v(x_BND)
        return split_heads(self.norm_k(self.k(x_BND)).to(v), self.num_heads), split_heads(v, self.num_heads)


@dataclass(frozen=True)
class _Pass:
    """What all blocks of one pass share."""

    rotary: Rotary
    cameras: Cameras | None
    parts_BK6D: Tensor
    states_PLD: Tensor
    """Embedded states of the prompts or images."""
    seen: Sequence[Seen]
    """One of each past; empty without a past."""
    first: int
    actions: Any


class Block(nn.Module):
    """Self-attention with the past, cross-attention, the module for actions if there is one, feed-forward."""

    def __init__(self, config: Config, action_model: nn.Module | None = None) -> None:
        super().__init__()
        self.eps, width = config.eps, config.width
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.self_attn = _Attention(config, config.by_camera)
        self.norm3 = nn.LayerNorm(width, config.eps)
        self.cross_attn = _Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.mlp_width), nn.GELU("tanh"), nn.Linear(config.mlp_width, width)
        )
        self.action_model = action_model

    def forward(self, x: Tensor, index: int, shared: _Pass) -> tuple[Tensor, BlockKeys]:
        """Tokens (B, K, T, D) after the block, and what it keeps of them, rows first.

        Args:
            x: tokens.
            index: of this block, for what the pasts kept of it.
            shared: what all blocks share.
        """
        parts = (self.modulation.float() + shared.parts_BK6D.float())[..., None, :].unbind(2)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        normed = modulate_in_float(x, shift_1, scale_1, self.eps).flatten(1, 2)
        mixed, keys = self._mixed(normed, index, shared)
        x = add_gated(x, mixed.view_as(x), gate_1)
        x = x + self._read(norm_in_float(x, self.norm3).flatten(1, 2), shared.states_PLD).view_as(x)
        action: tuple[Tensor, ...] = ()
        if self.action_model is not None:
            pasts = [seen.actions(index) for seen in shared.seen]
            x, action = self.action_model(x, shared.actions, pasts, shared.first)
        x = add_gated(x, self.ffn(modulate_in_float(x, shift_2, scale_2, self.eps)), gate_2)
        return x, BlockKeys(*keys, action)

    def _mixed(self, x_BND: Tensor, index: int, shared: _Pass) -> tuple[Tensor, KeyValues]:
        """The sum of the branches of self-attention, and the keys and values before rotation and transform."""
        q, (k, v) = self.self_attn.queries(x_BND), self.self_attn.keys(x_BND)
        pasts = [seen.keys(index) for seen in shared.seen]
        own = both_branches(k, v, shared.rotary, shared.cameras)
        queries = [rotate(q, shared.rotary)]
        if shared.cameras is not None:
            queries.append(shared.cameras.queries(q))
        by_place, *by_camera = attend_after(torch.stack(queries), *own, pasts)
        mixed = self.self_attn.o(merge_heads(by_place))
        if shared.cameras is not None:
            mixed = mixed + self.self_attn.prope_o(merge_heads(shared.cameras.outputs(by_camera[0])))
        return mixed, (k, v)

    def _read(self, x_BND: Tensor, states_PLD: Tensor) -> Tensor:
        """Cross-attention; the rows of a past read its states, padding included."""
        rows = rows_per_past(len(x_BND), len(states_PLD))
        q, (k, v) = self.cross_attn.queries(x_BND), self.cross_attn.keys(states_PLD)
        long = q.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)
        read = functional.scaled_dot_product_attention(long, k, v)
        return self.cross_attn.o(
            merge_heads(read.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1).contiguous())
        )


class _ImageProjection(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        before, width = config.states_width, config.width
        self.proj = nn.Sequential(
            nn.LayerNorm(before, IMAGE_EPS),
            nn.Linear(before, before),
            nn.GELU(),
            nn.Linear(before, width),
            nn.LayerNorm(width, IMAGE_EPS),
        )

    def forward(self, states: Tensor) -> Tensor:
        return self.proj(states)


class _Head(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, (_, height, wide) = config.width, config.patch
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.head = nn.Linear(width, config.out_channels * height * wide)

    def forward(self, x_BKTD: Tensor, condition_BKD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + condition_BKD.float()[:, :, None])[..., None, :].unbind(2)
        return self.head(modulate_in_float(x_BKTD, shift, scale, self.eps))


class CausalWan(nn.Module):
    """Call it with latents and their pasts for the flow, ``noise - clean``, or for what the pasts keep of them.

    Args:
        config: sizes and options.
        action_model: makes the module of each of ``config.action_blocks``. It is called with tokens (B, K, T, D),
            ``Latents.actions``, what each past's visible latents kept (tensors with the latents first; none without
            a past) and the index of the first latent. It returns the tokens after it, and what to keep: tensors
            (B, K, ...).
        recompute: recompute activations in the backward pass instead of storing them.
    """

    def __init__(
        self,
        config: Config | None = None,
        action_model: Callable[[Config], nn.Module] | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.recompute = recompute
        if config.action_blocks and action_model is None:
            raise ValueError(f"blocks {config.action_blocks} have modules for actions: say how to make them")
        width = config.width
        self.patch_embedding = nn.Conv3d(config.in_channels, width, config.patch, config.patch)
        if config.reads == "text":
            self.text_embedding = nn.Sequential(
                nn.Linear(config.states_width, width), nn.GELU("tanh"), nn.Linear(width, width)
            )
        else:
            self.img_emb = _ImageProjection(config)
        self.time_embedding = nn.Sequential(
            nn.Linear(config.sinusoid, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(
            Block(config, action_model(config) if action_model and i in config.action_blocks else None)
            for i in range(config.num_blocks)
        )
        self.head = _Head(config)

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Modules whose parameters are gathered together when weights are sharded."""
        for block in self.blocks:
            yield (block,)

    def forward(self, inputs: Latents, pasts: Sequence[Past], keep: bool = False) -> Any:
        """Run one pass.

        Args:
            inputs: latents of B rows; row b belongs to past ``b // (B // P)``.
            pasts: P pasts, all with the same visible latents.
            keep: return what the rows' latents leave behind instead of the flow; for finished latents.

        Returns:
            The flow (B, C, K, H, W), or with ``keep`` a list of B ``Kept``.

        Raises:
            ValueError: when the pasts do not fit the rows, the latents the patches, or cameras the pasts.
        """
        rows_per_past(len(inputs.latents_BCKHW), len(pasts))
        grid = self._grid(inputs)
        tokens = self.patch_embedding(inputs.latents_BCKHW.to(self.patch_embedding.weight.dtype))
        x = tokens.flatten(3).permute(0, 2, 3, 1)
        shared, condition = self._shared(inputs, pasts, grid)
        kept: list[BlockKeys] = []
        for index, block in enumerate(self.blocks):
            x, own = run_block(self.recompute, block, x, index, shared)
            if keep:
                kept.append(own)
        if keep:
            return [_kept(inputs, kept, row) for row in range(len(x))]
        # A copy, not a view: with sharded weights the backward pass begins at this tensor.
        return self._cells(self.head(x, condition), grid).clone()

    def _grid(self, inputs: Latents) -> tuple[int, int, int]:
        count, height, width = inputs.latents_BCKHW.shape[2:]
        _, patch_height, patch_width = self.config.patch
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"latents of {height}x{width} cells cannot be split into patches {self.config.patch}"
            )
        if inputs.cameras is not None and not self.config.by_camera:
            raise ValueError("got cameras for a network without a branch by cameras: leave them out")
        return count, height // patch_height, width // patch_width

    def _shared(
        self, inputs: Latents, pasts: Sequence[Past], grid: tuple[int, int, int]
    ) -> tuple[_Pass, Tensor]:
        """What the blocks share, and the condition of each latent for the head, (B, K, D)."""
        device, dims = inputs.latents_BCKHW.device, self.config.rope_dims
        wave = sinusoid(inputs.timesteps_BK, self.config.sinusoid, torch.float64)
        condition = self.time_embedding(wave.to(self.time_embedding[0].weight.dtype))  # type: ignore[arg-type]
        parts = self.time_projection(condition).unflatten(-1, (6, -1))

        def table(first: int, count: int) -> Rotary:
            return rotary_table(first, (count, *grid[1:]), dims, ROPE_THETA, device)

        seen = [Seen.of(past, table, inputs.cameras is not None) for past in pasts if past.visible]
        if len(seen) not in (0, len(pasts)):
            raise ValueError("expected visible latents in all pasts or in none")
        own = table(inputs.first, grid[0])
        return (
            _Pass(own, inputs.cameras, parts, self._states(pasts), seen, inputs.first, inputs.actions),
            condition,
        )

    def _states(self, pasts: Sequence[Past]) -> Tensor:
        """Embedded states of each past's prompt or image, (P, L, D). A prompt's zeros are embedded too."""
        if self.config.reads == "image":
            return self.img_emb(torch.stack([past.states_LE for past in pasts]).to(self._dtype))
        length, longest = self.config.text_length, max(len(past.states_LE) for past in pasts)
        if longest > length:
            raise ValueError(f"a prompt has {longest} states: the network reads {length} at most")
        texts = [functional.pad(p.states_LE, (0, 0, 0, length - len(p.states_LE))) for p in pasts]
        return self.text_embedding(torch.stack(texts).to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    def _cells(self, x_BKTE: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens whose dimensions are (height, width, channel) of their patch, to (B, C, K, H, W)."""
        _, height, width = self.config.patch
        cells = x_BKTE.unflatten(2, grid[1:]).unflatten(-1, (height, width, -1))
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def _kept(inputs: Latents, blocks: Sequence[BlockKeys], row: int) -> Kept:
    by = inputs.cameras
    own = None if by is None else Cameras(by.image_from_world_BK44[row], by.world_from_image_BK44[row])
    return Kept(inputs.first, inputs.latents_BCKHW.shape[2], tuple(b.of_row(row) for b in blocks), own)
