"""Layers that Wan's two video autoencoders share; see ``causal`` for the shapes.

Values beyond every edge are zero, and so are the frames before a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldcompass.worlds.open.causal import ChannelNorm, Stream, attend_within_frames

CONV = 3  # frames that a causal convolution reads
TIME = 3  # frames that a change of the frame rate reads


class CausalConv(nn.Conv3d):
    """A causal convolution with zeros beyond the edges of the picture and before the video."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, CONV, padding=(0, 1, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        """The segment after its memory."""
        return super().forward(stream.prepend(x, _two_blank))


class FrameAttention(nn.Module):
    """Attention among the cells of each frame, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Like the layers next to it it takes a stream, and leaves nothing there."""
        q, k, v = per_frame(self.to_qkv, self.norm(x)).chunk(3, 1)
        return x + per_frame(self.proj, attend_within_frames(q, k, v))


class Downsampler(nn.Module):
    """Halves the picture and optionally the frames; a video's first frame has no change in time."""

    def __init__(self, channels: int, halves_time: bool) -> None:
        super().__init__()
        pad_right_and_below = nn.ZeroPad2d((0, 1, 0, 1))
        self.resample = nn.Sequential(pad_right_and_below, nn.Conv2d(channels, channels, 3, stride=2))
        if halves_time:
            self.time_conv = nn.Conv3d(channels, channels, (TIME, 1, 1), stride=(2, 1, 1))
        self.halves_time = halves_time

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """The smaller segment."""
        x = per_frame(self.resample, x)
        if not self.halves_time:
            return x
        if stream.begins:
            stream.keep(x)
            return x
        return self.time_conv(stream.prepend(x, _not_at_beginning))


class Upsampler(nn.Module):
    """Optionally doubles the frames, then the picture; a video's first frame is not doubled and not stored."""

    def __init__(self, channels: int, out: int, doubles_time: bool) -> None:
        super().__init__()
        double = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(double, nn.Conv2d(channels, out, 3, padding=1))
        if doubles_time:
            self.time_conv = nn.Conv3d(channels, 2 * channels, (TIME, 1, 1))
        self.doubles_time = doubles_time

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """The larger segment."""
        if self.doubles_time and stream.begins:
            stream.keep(_two_blank(x))
        elif self.doubles_time:
            halves = self.time_conv(stream.prepend(x, _not_at_beginning)).unflatten(1, (2, -1))
            x = halves.movedim(1, 3).flatten(2, 3)
        return per_frame(self.resample, x)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer for pictures, applied to each frame."""
    count = x.shape[2]
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, count)).transpose(1, 2)


def normalised(latents: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Latents with the mean 0 and the deviation 1 in every channel."""
    return (latents - _per_channel(mean, latents)) / _per_channel(std, latents)


def denormalised(latents: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of ``normalised``."""
    return latents * _per_channel(std, latents) + _per_channel(mean, latents)


def _two_blank(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, :, :1]).expand(-1, -1, 2, -1, -1)


def _not_at_beginning(x: Tensor) -> Tensor:
    raise AssertionError("layers in time do not run at the beginning of a video")


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1, 1)
