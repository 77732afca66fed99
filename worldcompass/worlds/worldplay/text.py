"""Input layers of the text branch, which turn caption, quoted text and start image into tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.layers import merge_heads, split_heads
from worldcompass.worlds.worldplay.config import Config8B
from worldcompass.worlds.worldplay.layers import EPS, Mlp, ScalarEmbedder

REFINER_BLOCKS = 2
TEXT, BYT5, VISION = range(3)  # rows of the embedding of a token's kind


@dataclass(frozen=True)
class TextStates:
    """The encoders' outputs for one scenario. Padding is dropped before any computation."""

    text_LE: Tensor
    """States of the caption, padded at the end."""
    text_mask_L: Tensor
    """Marks states that are not padding; bool or int."""
    byt5_LE: Tensor
    """States of the caption's quoted text; may be all padding."""
    byt5_mask_L: Tensor
    """Marks states that are not padding; bool or int."""
    vision_LE: Tensor | None
    """States of the start image; None generates from text only."""


class _CaptionEmbedder(nn.Module):
    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(text_width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(functional.silu(self.linear_1(x)))


class _RefinerBlock(nn.Module):
    """Attention among the caption's tokens, with modulated gates."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.self_attn_qkv, self.self_attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width, functional.silu)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_BLD: Tensor, condition_BD: Tensor) -> Tensor:
        gate_1, gate_2 = self.adaLN_modulation(condition_BD)[:, None].chunk(2, -1)
        parts = self.self_attn_qkv(self.norm1(x_BLD)).chunk(3, -1)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        seen = functional.scaled_dot_product_attention(q, k, v)
        x = x_BLD + gate_1 * self.self_attn_proj(merge_heads(seen))
        return x + gate_2 * self.mlp(self.norm2(x))


class TextRefiner(nn.Module):
    """Maps the caption's states to the width of the network."""

    def __init__(self, config: Config8B) -> None:
        super().__init__()
        self.input_embedder = nn.Linear(config.text_width, config.width)
        self.t_embedder = ScalarEmbedder(config.width)
        self.c_embedder = _CaptionEmbedder(config.text_width, config.width)
        blocks = nn.ModuleList(_RefinerBlock(config.width, config.num_heads) for _ in range(REFINER_BLOCKS))
        self.individual_token_refiner = nn.ModuleDict({"blocks": blocks})

    def forward(self, states_BLE: Tensor, timestep_B: Tensor) -> Tensor:
        """(B, L, D) for L tokens without padding."""
        mean = states_BLE.float().mean(1).to(states_BLE.dtype)
        condition = self.t_embedder(timestep_B) + self.c_embedder(mean)
        x = self.input_embedder(states_BLE)
        for block in self.individual_token_refiner["blocks"]:  # type: ignore[union-attr]
            x = block(x, condition)
        return x


class Byt5Mapper(nn.Module):
    """Maps the quoted text's states to the width of the network."""

    def __init__(self, config: Config8B) -> None:
        super().__init__()
        width, *hidden = config.byt5_widths
        self.layernorm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden[0]), nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], config.width)

    def forward(self, states_LE: Tensor) -> Tensor:
        """(L, E) to (L, D)."""
        x = functional.gelu(self.fc1(self.layernorm(states_LE)))
        return self.fc3(functional.gelu(self.fc2(x)))


class VisionProjection(nn.Module):
    """Maps the start image's states to the width of the network."""

    def __init__(self, config: Config8B) -> None:
        super().__init__()
        inner, width = config.vision_width, config.width
        self.proj = nn.Sequential(
            nn.LayerNorm(inner),
            nn.Linear(inner, inner),
            nn.GELU(),
            nn.Linear(inner, width),
            nn.LayerNorm(width),
        )

    def forward(self, states_LE: Tensor) -> Tensor:
        """(L, E) to (L, D)."""
        return self.proj(states_LE)


def drop_padding(states_LE: Tensor, mask_L: Tensor, dtype: torch.dtype) -> Tensor:
    """The states that are not padding, in ``dtype``."""
    return states_LE[mask_L.bool()].to(dtype)
