"""Small layers and functions that transformers of several families share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MAX_PERIOD = 10_000


def sinusoid(values: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Cosines, then sines, of a number at decreasing frequencies; (..., dim), computed in ``dtype``.

    The exponential alone is float64: libraries round a float32 one differently, which high timesteps enlarge.
    """
    half = dim // 2
    powers = -math.log(MAX_PERIOD) * torch.arange(half, device=values.device).to(dtype) / half
    rates = powers.double().exp().to(dtype)
    angle = values.to(dtype)[..., None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh approximation."""
    return functional.gelu(x, approximate="tanh")


def split_heads(x_BND: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) to (B, heads, N, head)."""
    return x_BND.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x_BhNd: Tensor) -> Tensor:
    """The inverse of ``split_heads``."""
    return x_BhNd.transpose(1, 2).flatten(2)


def modulate_in_float(x_BKTD: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without parameters, shifted and scaled in float32, returned in the dtype of ``x``."""
    normed = functional.layer_norm(x_BKTD.float(), x_BKTD.shape[-1:], eps=eps)
    return (normed * (1 + scale) + shift).to(x_BKTD.dtype)


def norm_in_float(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm in float32, returned in the dtype of ``x``."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return functional.layer_norm(x.float(), x.shape[-1:], weight, bias, norm.eps).to(x.dtype)


def add_gated(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    """``x + branch * gate`` in float32, returned in the dtype of ``x``."""
    return (x.float() + branch.float() * gate).to(x.dtype)


def run_block(recompute: bool, block: nn.Module, *inputs: Any) -> Any:
    """A block's output; with ``recompute`` its activations are not stored but recomputed in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
    return block(*inputs)
