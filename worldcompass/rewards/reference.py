"""Likeness to the engine's true continuation, for groups that have one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from worldcompass.critic import Need
from worldcompass.media.pixels import luma
from worldcompass.rewards.abstain import abstain
from worldcompass.types import Group, Scores

Likeness = Callable[[Tensor, Tensor], Tensor]
"""(uint8 frames (N, 3, h, w), references of that shape) -> likeness (N,), higher is better."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al. 2004
SSIM_K1, SSIM_K2 = 0.01, 0.03
PSNR_CEILING = 60.0  # dB, for equal pictures


def psnr(frames_N3hw: Tensor, references_N3hw: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 60; (N,)."""
    error = (frames_N3hw.float() - references_N3hw.float()).square().mean((-3, -2, -1))
    return (10 * torch.log10(255**2 / error.clamp_min(1e-3))).clamp_max(PSNR_CEILING)


def ssim(frames_N3hw: Tensor, references_N3hw: Tensor) -> Tensor:
    """Structural similarity of the brightness with an 11 x 11 Gaussian window; (N,) between -1 and 1.

    Only positions with a complete window count. Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality
    assessment: from error visibility to structural similarity", IEEE TIP 13 (2004), equation 13.

    Raises:
        ValueError: when the frames are smaller than the window.
    """
    x, y = luma(frames_N3hw)[:, None], luma(references_N3hw)[:, None]
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of {SSIM_WINDOW} pixels or more, got {tuple(x.shape[-2:])}")
    window = _gaussian().to(x)
    mean_x, mean_y, xx, yy, xy = (conv2d(part, window) for part in (x, y, x * x, y * y, x * y))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    like = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return like.mean((-3, -2, -1))


def _gaussian() -> Tensor:
    offsets = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    return (line[:, None] * line / line.sum() ** 2)[None, None]


class TrueContinuation:
    """Mean likeness of the chunk's frames to the engine's true frames, frame by frame.

    Places that the video has not shown yet may rightly differ from the engine's. The score is meaningful near the
    start, and after the camera returns to a known view.
    """

    needs: tuple[Need, ...] = ("truth",)

    def __init__(self, likeness: Likeness, name: str) -> None:
        """Compare by ``likeness``: ``psnr``, ``ssim``, an ``Lpips``, or another function of that form."""
        self.likeness, self.name = likeness, name

    def __call__(self, group: Group) -> Scores:
        """Score the candidates; abstains without a true continuation of the same length and size."""
        if group.truth is None or group.truth.frames_F3hw.shape != group.frames_GF3hw.shape[1:]:
            return abstain(group)
        frames = group.frames_GF3hw
        true = group.truth.frames_F3hw.to(frames.device).expand_as(frames)
        likeness = self.likeness(frames.flatten(0, 1), true.flatten(0, 1))
        values = likeness.unflatten(0, frames.shape[:2]).mean(1)
        return Scores(values.float().cpu(), torch.ones(len(values), dtype=torch.bool))
