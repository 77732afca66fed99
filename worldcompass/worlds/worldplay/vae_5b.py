"""The video autoencoder of Wan2.2-TI2V-5B, which the 5B model uses; parameter names are those of its files.

The files have the ``diffusers`` form, as those of the 5B transformer. Like the 8B model's autoencoder (``vae_8b``)
it works latent by latent, with a memory of its layers' last inputs. Values beyond every edge are zero.
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
from worldcompass.worlds.worldplay.config import VaeConfig5B


class Autoencoder5B(nn.Module):
    """Converts between frames and the 5B transformer's latents, whose channels have mean 0 and variance 1."""

    def __init__(self, config: VaeConfig5B | None = None) -> None:
        super().__init__()
        self.config = config or VaeConfig5B()
        channels = self.config.latent_channels
        self.encoder, self.decoder = _Encoder(self.config), _Decoder(self.config)
        self.quant_conv = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv3d(channels, channels, 1)

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
        return (mean - _per_channel(self.config.mean, mean)) / _per_channel(self.config.std, mean)

    def posterior(self, video_B3Fhw: Tensor) -> Tensor:
        """The encoder's mean and logarithm of the variance, (B, 2C, K, H, W), not normalised."""
        patches = fold(video_B3Fhw, 1, self.config.patch).transpose(3, 4).flatten(1, 4)
        return self.quant_conv(encode_stretches(self.encoder, patches))

    def decode(self, latents_BCKHW: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Frames (B, 3, F, h, w) in about -1 to 1 that continue a past, and the memory after them.

        Args:
            latents_BCKHW: normalised.
            memory: of the past, (1, ...) for all rows; None at a video's beginning.
        """
        std, mean = (_per_channel(x, latents_BCKHW) for x in (self.config.std, self.config.mean))
        raw = self.post_quant_conv(latents_BCKHW * std + mean)
        patches, memory = decode_stretches(self.decoder, raw, memory)
        side = self.config.patch
        return unfold(patches.unflatten(1, (3, 1, side, side)).transpose(3, 4)), memory


class _Conv(nn.Conv3d):
    """A causal convolution with zeros beyond the edges of the picture and before the video."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:  # type: ignore[override]
        return super().forward(stream.prepend(x, _two_blank))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(channels, 3), _Conv(channels, out)
        self.norm2, self.conv2 = ChannelNorm(out, 3), _Conv(out, out)
        self.conv_shortcut = nn.Identity() if channels == out else nn.Conv3d(channels, out, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        inner = self.conv1(functional.silu(self.norm1(x)), stream)
        return self.conv_shortcut(x) + self.conv2(functional.silu(self.norm2(inner)), stream)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _per_frame(self.to_qkv, self.norm(x)).chunk(3, 1)
        return x + _per_frame(self.proj, attend_within_frames(q, k, v))


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_ResidualBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(channels)])

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, stream)), stream)


class _Downsampler(nn.Module):
    """Halves the picture and optionally the frames; a video's first frame has no change in time."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        pad_right_and_below = nn.ZeroPad2d((0, 1, 0, 1))
        self.resample = nn.Sequential(pad_right_and_below, nn.Conv2d(channels, channels, 3, stride=2))
        if time > 1:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))
        self.time = time

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = _per_frame(self.resample, x)
        if self.time == 1:
            return x
        if stream.begins:
            stream.keep(x)
            return x
        return self.time_conv(stream.prepend(x, _not_at_beginning))


class _Upsampler(nn.Module):
    """Optionally doubles the frames, then the picture; a video's first frame is not doubled and not stored."""

    def __init__(self, channels: int, time: int) -> None:
        super().__init__()
        double = nn.Upsample(scale_factor=2.0, mode="nearest-exact")
        self.resample = nn.Sequential(double, nn.Conv2d(channels, channels, 3, padding=1))
        if time > 1:
            self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1))
        self.time = time

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time > 1 and stream.begins:
            stream.keep(_two_blank(x))
        elif self.time > 1:
            halves = self.time_conv(stream.prepend(x, _not_at_beginning)).unflatten(1, (2, -1))
            x = halves.movedim(1, 3).flatten(2, 3)
        return _per_frame(self.resample, x)


class _DownBlock(nn.Module):
    """Blocks and a change of resolution, with a shortcut of averages of the input."""

    def __init__(self, channels: int, out: int, num_blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.out, self.time, self.space = out, time, space
        self.resnets = nn.ModuleList(
            _ResidualBlock(channels if i == 0 else out, out) for i in range(num_blocks)
        )
        self.downsampler = _Downsampler(out, time) if space > 1 else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        # A video's first frame is averaged with a black frame before it.
        whole = functional.pad(x, (0, 0, 0, 0, x.shape[2] % self.time, 0))
        shortcut = average_channels(fold(whole, self.time, self.space).flatten(1, 4), self.out)
        for block in self.resnets:
            x = block(x, stream)
        return shortcut + (x if self.downsampler is None else self.downsampler(x, stream))


class _UpBlock(nn.Module):
    """Blocks and a change of resolution, with a shortcut of copies of the input."""

    def __init__(self, channels: int, out: int, num_blocks: int, time: int, space: int) -> None:
        super().__init__()
        self.out, self.time, self.space = out, time, space
        self.resnets = nn.ModuleList(
            _ResidualBlock(channels if i == 0 else out, out) for i in range(num_blocks)
        )
        self.upsampler = _Upsampler(out, time) if space > 1 else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        before = x
        for block in self.resnets:
            x = block(x, stream)
        if self.upsampler is None:
            return x
        factors = (self.out, self.time, self.space, self.space)
        copies = repeat_channels(before, self.out * self.time * self.space**2).unflatten(1, factors)
        frames = unfold(copies)
        return self.upsampler(x, stream) + (frames[:, :, self.time - 1 :] if stream.begins else frames)


class _Encoder(nn.Module):
    def __init__(self, config: VaeConfig5B) -> None:
        super().__init__()
        widths = [config.width * m for m in (1, *config.multipliers)]
        factors = [(2 if halves else 1, 2) for halves in config.halves_time] + [(1, 1)]
        self.conv_in = _Conv(3 * config.patch**2, widths[0])
        self.down_blocks = nn.ModuleList(
            _DownBlock(width, after, config.num_blocks, *factor)
            for width, after, factor in zip(widths, widths[1:], factors, strict=False)
        )
        self.mid_block = _Middle(widths[-1])
        self.norm_out, self.conv_out = (
            ChannelNorm(widths[-1], 3),
            _Conv(widths[-1], 2 * config.latent_channels),
        )

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for block in self.down_blocks:
            x = block(x, stream)
        return self.conv_out(functional.silu(self.norm_out(self.mid_block(x, stream))), stream)


class _Decoder(nn.Module):
    def __init__(self, config: VaeConfig5B) -> None:
        super().__init__()
        widths = [config.decoder_width * m for m in (config.multipliers[-1], *config.multipliers[::-1])]
        factors = [(2 if halves else 1, 2) for halves in config.halves_time[::-1]] + [(1, 1)]
        self.conv_in = _Conv(config.latent_channels, widths[0])
        self.mid_block = _Middle(widths[0])
        self.up_blocks = nn.ModuleList(
            _UpBlock(width, after, config.num_blocks + 1, *factor)
            for width, after, factor in zip(widths, widths[1:], factors, strict=False)
        )
        self.norm_out, self.conv_out = ChannelNorm(widths[-1], 3), _Conv(widths[-1], 3 * config.patch**2)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.mid_block(self.conv_in(x, stream), stream)
        for block in self.up_blocks:
            x = block(x, stream)
        return self.conv_out(functional.silu(self.norm_out(x)), stream)


def _two_blank(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, :, :1]).expand(-1, -1, 2, -1, -1)


def _not_at_beginning(x: Tensor) -> Tensor:
    raise AssertionError("layers in time do not run at the beginning of a video")


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer for pictures, applied to each frame."""
    count = x.shape[2]
    return layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, count)).transpose(1, 2)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1, 1)
