"""Brightness of pixels, and how much of a picture's information another picture keeps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
WINDOW = 7  # pixels
SCALES = 3  # each half the size of the one before
NOISE = 4.0  # levels squared: the variance of the eye's own noise


def luma(frames_3hw: Tensor) -> Tensor:
    """Brightness of frames (..., 3, h, w) in their own unit, float32 (..., h, w)."""
    weights = torch.tensor(LUMA, device=frames_3hw.device)
    return torch.einsum("...chw,c->...hw", frames_3hw.float(), weights)


def window_means(maps_hw: Tensor, size: int, padding: int = 0) -> Tensor:
    """Means of all windows of ``size`` x ``size`` pixels of maps (..., h, w); what lies outside does not count.

    By two matrix products, which a CPU computes faster than ``avg_pool2d``.
    """
    down, across = (_averages(maps_hw, length, size, padding) for length in maps_hw.shape[-2:])
    return down @ maps_hw @ across.T


def _averages(like: Tensor, length: int, size: int, padding: int) -> Tensor:
    """The matrix that takes means over ``size`` neighbours of ``length`` numbers in a row."""
    places = torch.arange(length, device=like.device)
    starts = torch.arange(-padding, length + padding - size + 1, device=like.device)[:, None]
    inside = ((places >= starts) & (places < starts + size)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def gain_limited_vif(frames_N3hw: Tensor, references_M3hw: Tensor) -> Tensor:
    """``sum log(1 + g^2 var(y) / (s + n)) / sum log(1 + var(y) / n)``, at most 1 for every pair; (N,).

    The sums run over 7 x 7 windows of the brightness at three scales. ``g`` is the regression of the frame x on
    the reference y, limited to [0, 1], and ``s`` is the variance of x that y does not explain. Hence more contrast
    than the reference earns nothing, and speckle or foreign texture costs.

    Source: Sheikh and Bovik, "Image information and visual quality", IEEE TIP 15 (2006); the limit of the gain is
    that of VMAF NEG.

    Args:
        frames_N3hw: levels of 255, at least 7 pixels high and wide; several times the M references, in their order.
        references_M3hw: uint8, of that size.
    """
    y = luma(references_M3hw)[None]
    x = luma(frames_N3hw).unflatten(0, (-1, len(references_M3hw)))
    seen, known = x.new_zeros(x.shape[:2]), y.new_zeros(y.shape[:2])
    for scale in range(SCALES):
        if scale:
            x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
        if min(x.shape[-2:]) < WINDOW:
            break
        mean_x, mean_y, xx, yy, xy = (window_means(part, WINDOW) for part in (x, y, x * x, y * y, x * y))
        var_x, var_y = (xx - mean_x**2).clamp_min(0), (yy - mean_y**2).clamp_min(0)
        covariance = xy - mean_x * mean_y
        gain = (covariance / var_y.clamp_min(1e-6)).clamp_min(0)
        rest = (var_x - gain * covariance).clamp_min(0)
        kept = gain.clamp_max(1).square() * var_y / (rest + NOISE)
        seen = seen + torch.log1p(kept).sum((-2, -1))
        known = known + torch.log1p(var_y / NOISE).sum((-2, -1))
    return ((seen + 1e-6) / (known + 1e-6)).flatten()
