"""Which kernel of attention CUDA runs for given tensors, by PyTorch's documented conditions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["flash", "memory-efficient", "plain"]
HALVES = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256  # dimensions, of the flash kernel
ALIGNED = {
    torch.float32: 4,
    torch.bfloat16: 8,
    torch.float16: 8,
}  # dimensions of a head, memory-efficient kernel


def fits_flash(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the flash kernel takes these tensors (B, heads, N, head) without a mask.

    It needs one half-precision type for all three, heads of a multiple of 8 up to 256 dimensions, and keys to see.
    """
    return (
        q.dtype == k.dtype == v.dtype
        and q.dtype in HALVES
        and q.shape[-1] == k.shape[-1] == v.shape[-1] <= LARGEST_HEAD
        and q.shape[-1] % 8 == 0
        and min(q.shape[-2], k.shape[-2]) > 0
    )


def cuda_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Kernel:
    """The kernel that ``scaled_dot_product_attention`` chooses on CUDA (compute capability 8 and later).

    cuDNN's kernel, which some versions prefer to flash for the same inputs, counts as flash.
    """
    if mask is None and fits_flash(q, k, v):
        return "flash"
    same = q.dtype == k.dtype == v.dtype
    if same and q.dtype in ALIGNED and q.shape[-1] % ALIGNED[q.dtype] == 0:
        return "memory-efficient"
    return "plain"
