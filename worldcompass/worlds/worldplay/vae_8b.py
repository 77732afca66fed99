"""The video autoencoder of HunyuanVideo-1.5, which the 8B model uses; parameter names are the official ones.

Every convolution in time is causal, and attention stays within a frame. Therefore a video can be decoded latent by
latent, with a memory of the layers' last inputs. See ``causal`` for the shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from worldcompass.worlds.open.causal import (
    ChannelNorm,
    Memory,
    Stream,
    attend_within_frames,
    average_channels,
    decode_stretches,
    encode_stretches,
    fold,
    repeat_channels,
    unfold,
)
from worldcompass.worlds.worldplay.config import VaeConfig8B


class Autoencoder8B(nn.Module):
    """Converts between frames and the 8B transformer's latents: the official encoder's mean times its scale."""

    def __init__(self, config: VaeConfig8B | None = None) -> None:
        super().__init__()
        self.config = config or VaeConfig8B()
        self.encoder, self.decoder = _Encoder(self.config), _Decoder(self.config)

    @property
    def pixels_per_cell(self) -> int:
        """Height and width in pixels of a latent's cell."""
        return self.config.spatial

    def encode(self, video_B3Fhw: Tensor) -> Tensor:
        """Latents (B, C, K, H, W) of 4K - 3 frames with values from -1 to 1.

        Raises:
            ValueError: for another number of frames.
        """
        mean, _ = self.posterior(video_B3Fhw).chunk(2, 1)
        return mean * self.config.scale

    def posterior(self, video_B3Fhw: Tensor) -> Tensor:
        """The encoder's mean and logarithm of the variance, (B, 2C, K, H, W), not scaled."""
        return encode_stretches(self.encoder, video_B3Fhw)

    def decode(self, latents_BCKHW: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Frames (B, 3, F, h, w) in about -1 to 1 that continue a past, and the memory after them.

        Args:
            latents_BCKHW: scaled.
            memory: of the past, (1, ...) for all rows; None at a video's beginning.
        """
        return decode_stretches(self.decoder, latents_BCKHW / self.config.scale, memory)


class _Conv(nn.Module):
    """A causal convolution; values beyond an edge of the picture or before the video equal the nearest pixel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, 3)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = stream.prepend(x, lambda x: x[:, :, :1].expand(-1, -1, 2, -1, -1))
        return self.conv(functional.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels, 3), _Conv(channels, channels)
        self.norm2, self.conv2 = ChannelNorm(channels, 3), _Conv(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)), stream)
        return x + self.conv2(functional.silu(self.norm2(inner)), stream)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 3)
        self.q, self.k, self.v = (nn.Conv3d(channels, channels, 1) for _ in "qkv")
        self.proj_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.proj_out(attend_within_frames(self.q(normed), self.k(normed), self.v(normed)))


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = _ResidualBlock(channels), _ResidualBlock(channels)
        self.attn_1 = _Attention(channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, stream)), stream)


class _Downsample(nn.Module):
    """Halves the picture and optionally the frames, by a convolution with a shortcut of averages.

    A video's first frame has no partner in time. Its convolution gives half of the channels, which are repeated.
    """

    def __init__(self, channels: int, out: int, time: int) -> None:
        super().__init__()
        self.out, self.time = out, time
        self.conv = _Conv(channels, out // (4 * time))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        time = 1 if stream.begins else self.time
        inner = _to_channels(self.conv(x, stream), time)
        inner = inner.repeat(1, self.out // inner.shape[1], 1, 1, 1)
        return inner + average_channels(_to_channels(x, time), self.out)


class _Upsample(nn.Module):
    """Doubles the picture and optionally the frames, by a convolution with a shortcut of copies.

    A video's first frame stays one frame and uses only the first half of the convolution's channels.
    """

    def __init__(self, channels: int, out: int, time: int) -> None:
        super().__init__()
        self.out, self.time = out, time
        self.conv = _Conv(channels, out * 4 * time)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        time = 1 if stream.begins else self.time
        inner = _from_channels(self.conv(x, stream), time)[:, : self.out]
        if self.time == 1:
            return inner + _from_channels(repeat_channels(x, 4 * self.out), time)
        return inner + repeat_channels(_from_channels(x, time), self.out)


class _Level(nn.Module):
    """Blocks at one resolution, followed by a change of resolution named ``downsample`` or ``upsample``."""

    def __init__(
        self, channels: int, num_blocks: int, name: str = "", change: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(_ResidualBlock(channels) for _ in range(num_blocks))
        self.change_name = name
        if change is not None:
            self.add_module(name, change)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for block in self.block:
            x = block(x, stream)
        return getattr(self, self.change_name)(x, stream) if self.change_name else x


class _Encoder(nn.Module):
    def __init__(self, config: VaeConfig8B) -> None:
        super().__init__()
        widths, out = config.widths, 2 * config.latent_channels
        self.out = out
        self.conv_in = _Conv(3, widths[0])
        levels = []
        for i, (width, after) in enumerate(zip(widths, [*widths[1:], 0], strict=True)):
            change = _Downsample(width, after, config.time_factor(i, down=True)) if after else None
            levels.append(_Level(width, config.num_blocks, "downsample" if after else "", change))
        self.down = nn.ModuleList(levels)
        self.mid = _Middle(widths[-1])
        self.norm_out, self.conv_out = ChannelNorm(widths[-1], 3), _Conv(widths[-1], out)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for level in self.down:
            x = level(x, stream)
        x = self.mid(x, stream)
        return self.conv_out(functional.silu(self.norm_out(x)), stream) + average_channels(x, self.out)


class _Decoder(nn.Module):
    def __init__(self, config: VaeConfig8B) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.width = widths[0]
        self.conv_in = _Conv(config.latent_channels, widths[0])
        self.mid = _Middle(widths[0])
        levels = []
        for i, (width, after) in enumerate(zip(widths, [*widths[1:], 0], strict=True)):
            change = _Upsample(width, after, config.time_factor(i, down=False)) if after else None
            levels.append(_Level(width, config.num_blocks + 1, "upsample" if after else "", change))
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = ChannelNorm(widths[-1], 3), _Conv(widths[-1], 3)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.mid(self.conv_in(x, stream) + repeat_channels(x, self.width), stream)
        for level in self.up:
            x = level(x, stream)
        return self.conv_out(functional.silu(self.norm_out(x)), stream)


def _to_channels(x: Tensor, time: int) -> Tensor:
    """Turn neighbours in time and space into channels, with the original channels as the innermost axis."""
    return torch.movedim(fold(x, time, 2), 1, 4).flatten(1, 4)


def _from_channels(x: Tensor, time: int) -> Tensor:
    """The inverse of ``_to_channels``."""
    return unfold(x.unflatten(1, (time, 2, 2, -1)).movedim(4, 1))
