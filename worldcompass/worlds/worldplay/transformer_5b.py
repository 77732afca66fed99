"""The WorldPlay 5B transformer: velocity of a chunk after a past (Wan2.2-TI2V-5B with actions and cameras).

The network reads text by cross-attention, so the keys and values of a scenario's text are computed once. Finished
latents run once per chunk and store keys and values for self-attention. The noisy chunk runs at every denoising
step and reads both. Parameter names are those of the official state dict. Modulation and norms are in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.attention import KeyValues, attend_to
from worldcompass.worlds.open.layers import (
    add_gated,
    gelu_tanh,
    merge_heads,
    modulate_in_float,
    norm_in_float,
    run_block,
    sinusoid,
    split_heads,
)
from worldcompass.worlds.worldplay.branches import Attend, Latents, Prefix, attention_for, extend
from worldcompass.worlds.worldplay.config import Config5B

ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Caption:
    """The encoder's output for one scenario."""

    text_LE: Tensor
    """All states, including the zeros after the last token, as the network was trained with them."""


@dataclass(frozen=True)
class Past5B:
    """Stored keys and values of one past for the next chunk."""

    text: Prefix
    """Those of the caption, (1, heads, L, head) per block."""
    memory: Prefix | None = None
    """Those of the remembered latents, (2 branches, heads, tokens, head) per block."""


class _Attention(nn.Module):
    """Queries, keys and values of one type; norms cover all heads together.

    Autocast on CUDA normalises in float32, and attention's kernels take one type, so that results are cast back.
    """

    def __init__(self, config: Config5B, by_camera: bool) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.width
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = (nn.RMSNorm(width, config.eps) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        if by_camera:
            self.to_out_prope = nn.ModuleList([nn.Linear(width, width)])

    def queries(self, x_BND: Tensor) -> Tensor:
        q = self.to_q(x_BND)
        return split_heads(self.norm_q(q).to(q), self.num_heads)

    def keys(self, x_BND: Tensor) -> KeyValues:
        v = self.to_v(x_BND)
        return split_heads(self.norm_k(self.to_k(x_BND)).to(v), self.num_heads), split_heads(
            v, self.num_heads
        )


class _FirstMlpLayer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return gelu_tanh(self.proj(x))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        # The official names include a layer without parameters between the two.
        self.net = nn.Sequential(_FirstMlpLayer(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Block(nn.Module):
    """Self-attention with the past, cross-attention to text, feed-forward.

    A call runs the video's part. ``text`` calls the text's layers one by one, so that with sharded weights neither
    part gathers the other's.
    """

    def __init__(self, config: Config5B) -> None:
        super().__init__()
        self.eps, width = config.eps, config.width
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = _Attention(config, by_camera=True)
        self.attn2 = _Attention(config, by_camera=False)
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.ffn = _FeedForward(width, config.mlp_width)

    def text(self, states_1LD: Tensor) -> KeyValues:
        """Keys and values of the caption."""
        return self.attn2.keys(states_1LD)

    @property
    def text_layers(self) -> tuple[nn.Module, ...]:
        """The layers of ``text``, each of which it calls once."""
        return self.attn2.to_k, self.attn2.to_v, self.attn2.norm_k

    def forward(
        self, x: Tensor, condition_BK6D: Tensor, attend: Attend, texts: Sequence[KeyValues]
    ) -> tuple[Tensor, KeyValues]:
        """Tokens (B, K, T, D) of latents after the block, and their keys and values to store."""
        parts = (self.scale_shift_table.float() + condition_BK6D.float())[..., None, :].unbind(2)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        normed = modulate_in_float(x, shift_1, scale_1, self.eps).flatten(1, 2)
        (by_position, by_camera), kept = attend(self.attn1.queries(normed), *self.attn1.keys(normed))
        by_position = self.attn1.to_out[0](merge_heads(by_position))
        by_camera = self.attn1.to_out_prope[0](merge_heads(by_camera))
        x = add_gated(x, (by_position + by_camera).view_as(x), gate_1)
        read = attend_to(self.attn2.queries(norm_in_float(x, self.norm2).flatten(1, 2)), texts)
        x = x + self.attn2.to_out[0](merge_heads(read)).view_as(x)
        return add_gated(x, self.ffn(modulate_in_float(x, shift_2, scale_2, self.eps)), gate_2), kept


class _TwoLayers(nn.Module):
    def __init__(self, before: int, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(before, width), nn.Linear(width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.linear_1.weight.dtype)
        return self.linear_2(self.activation(self.linear_1(x)))


class _ConditionEmbedder(nn.Module):
    """Maps timesteps, actions and text to the width of the network."""

    def __init__(self, config: Config5B) -> None:
        super().__init__()
        self.sinusoid = config.sinusoid
        self.time_embedder = _TwoLayers(config.sinusoid, config.width, functional.silu)
        self.action_embedder = _TwoLayers(config.sinusoid, config.width, functional.silu)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_embedder = _TwoLayers(config.text_width, config.width, gelu_tanh)

    def forward(self, timesteps_BK: Tensor, labels_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The condition of each latent, (B, K, D), and its six parts for the blocks, (B, K, 6, D)."""
        condition = self.time_embedder(sinusoid(timesteps_BK, self.sinusoid))
        condition = condition + self.action_embedder(sinusoid(labels_BK, self.sinusoid))
        return condition, self.time_proj(functional.silu(condition)).unflatten(-1, (6, -1))


class Transformer5B(nn.Module):
    """Call it with a ``Caption`` for a past, with ``Latents`` for a longer past or for velocity."""

    def __init__(self, config: Config5B | None = None, recompute: bool = False) -> None:
        super().__init__()
        self.config = config = config or Config5B()
        self.recompute = recompute  # recompute activations in the backward pass instead of storing them
        width, patch = config.width, config.patch
        self.patch_embedding = nn.Conv3d(config.latent_channels, width, patch, patch)
        self.condition_embedder = _ConditionEmbedder(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.proj_out = nn.Linear(width, config.latent_channels * patch[1] * patch[2])
        self._zero_actions_and_cameras()

    @staticmethod
    def is_text_only(name: str) -> bool:
        """Whether a pass over latents gives this parameter no gradient."""
        text = (".attn2.to_k.", ".attn2.to_v.", ".attn2.norm_k.")
        return name.startswith("condition_embedder.text_embedder.") or any(part in name for part in text)

    def units(self) -> Iterator[tuple[nn.Module, ...]]:
        """Modules whose parameters are gathered together when weights are sharded; see ``Transformer8B.units``."""
        yield (self.condition_embedder.text_embedder,)
        for block in self.blocks:
            assert isinstance(block, _Block)
            yield block.text_layers
            yield (block,)

    def forward(
        self, inputs: Caption | Latents, pasts: Sequence[Past5B] = (), keep_keys: bool = False
    ) -> Any:
        """Run one of the three passes.

        Args:
            inputs: states of one scenario's caption, or latents of B rows.
            pasts: P pasts, for latents; row b belongs to past ``b // (B // P)``.
            keep_keys: return P longer pasts instead of velocity; for finished latents, one row per past.

        Returns:
            A ``Past5B`` for a caption, a list of P of them with ``keep_keys``, otherwise velocity
            (B, C, K, H, W), ``noise - clean``.

        Raises:
            ValueError: when the pasts do not fit the rows, or the latents the patches.
        """
        if isinstance(inputs, Caption):
            text = self.condition_embedder.text_embedder(inputs.text_LE[None])
            return Past5B([block.text(text) for block in self.blocks])  # type: ignore[operator]
        if keep_keys and len(pasts) != len(inputs.latents_BCKHW):
            raise ValueError(
                f"{len(inputs.latents_BCKHW)} rows cannot extend {len(pasts)} pasts: give one row to each"
            )
        if not pasts or len({past.memory is None for past in pasts}) > 1:
            raise ValueError("latents need pasts with text, and with memory in all of them or in none")
        return self._latents(inputs, pasts, keep_keys)

    def _latents(self, inputs: Latents, pasts: Sequence[Past5B], keep_keys: bool) -> Tensor | list[Past5B]:
        count, height, width = inputs.latents_BCKHW.shape[2:]
        _, patch_height, patch_width = self.config.patch
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"latents of {height}x{width} cells cannot be split into patches {self.config.patch}"
            )
        grid = (count, height // patch_height, width // patch_width)
        tokens = self.patch_embedding(inputs.latents_BCKHW.to(self.patch_embedding.weight.dtype))
        x = tokens.flatten(3).permute(0, 2, 3, 1)
        condition, parts = self.condition_embedder(inputs.timesteps_BK, inputs.labels_BK)
        attend_after = attention_for(inputs, grid, self.config.rope_dims, ROPE_THETA)
        longer = []
        for index, block in enumerate(self.blocks):
            memories = [past.memory[index] for past in pasts if past.memory is not None]
            texts = [past.text[index] for past in pasts]
            x, own = run_block(self.recompute, block, x, parts, attend_after(memories), texts)
            if keep_keys:
                # Extend block by block, so that a long memory never exists twice.
                longer.append([extend(m, own, row) for row, m in enumerate(memories or [None] * len(pasts))])
        if keep_keys:
            memories = zip(*longer, strict=True)
            return [Past5B(past.text, list(m)) for past, m in zip(pasts, memories, strict=True)]
        shift, scale = (self.scale_shift_table.float() + condition.float()[:, :, None]).unbind(2)
        velocity = self.proj_out(modulate_in_float(x, shift[:, :, None], scale[:, :, None], self.config.eps))
        # A copy, not a view: with sharded weights the backward pass begins at this tensor.
        return self._cells(velocity, grid).clone()

    def _cells(self, x_BKTE: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens whose dimensions are (height, width, channel) of their patch, to (B, C, K, H, W)."""
        _, height, width = self.config.patch
        cells = x_BKTE.unflatten(2, grid[1:]).unflatten(-1, (height, width, -1))
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _zero_actions_and_cameras(self) -> None:
        """Set WorldPlay's additions to Wan2.2 to zero, so that a new network equals the video model."""
        cameras = (block.get_submodule("attn1.to_out_prope.0") for block in self.blocks)
        for layer in (self.condition_embedder.action_embedder.linear_2, *cameras):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
