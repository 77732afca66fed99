"""The brightness of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luma(frames_3hw: Tensor) -> Tensor:
    """Luma of frames (..., 3, h, w) in their own unit, float32 (..., h, w)."""
    return torch.einsum("...chw,c->...hw", frames_3hw.float(), torch.tensor(LUMA))
